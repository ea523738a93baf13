//! The byte tokenizer: a token is a byte, its id the byte's value, the vocabulary 256.

use serde_json::{Map, Value, json};

/// Text to bytes and back.
#[derive(Clone, Copy, Debug, Default)]
pub struct ByteTokenizer;

impl ByteTokenizer {
    /// Number of tokens.
    pub const VOCABULARY: usize = 256;

    /// The ids of a text: its UTF-8 bytes.
    pub fn encode(self, text: &str) -> Vec<u8> {
        text.as_bytes().to_vec()
    }

    /// The text of some ids; bytes that are no UTF-8 become U+FFFD.
    pub fn decode(self, ids: &[u8]) -> String {
        String::from_utf8_lossy(ids).into_owned()
    }

    /// The `tokenizer.json` that Hugging Face `tokenizers` reads: a byte-level BPE without merges
    /// whose ids are the byte values.
    pub fn to_json(self) -> Value {
        let mut vocab = Map::new();
        for byte in 0..=255u8 {
            vocab.insert(printable(byte).to_string(), json!(byte));
        }
        let byte_level = json!({
            "type": "ByteLevel",
            "add_prefix_space": false,
            "trim_offsets": true,
            "use_regex": false,
        });
        json!({
            "version": "1.0",
            "truncation": null,
            "padding": null,
            "added_tokens": [],
            "normalizer": null,
            "pre_tokenizer": byte_level,
            "post_processor": null,
            "decoder": byte_level,
            "model": {
                "type": "BPE",
                "dropout": null,
                "unk_token": null,
                "continuing_subword_prefix": null,
                "end_of_word_suffix": null,
                "fuse_unk": false,
                "byte_fallback": false,
                "ignore_merges": false,
                "vocab": vocab,
                "merges": [],
            },
        })
    }

    /// True when a parsed `tokenizer.json` describes this very tokenizer.
    pub fn is_described_by(self, tokenizer: &Value) -> bool {
        let own = self.to_json();
        let no_merges = tokenizer["model"]["merges"].as_array().is_none_or(Vec::is_empty);
        tokenizer["model"]["vocab"] == own["model"]["vocab"] && no_merges
    }
}

/// The printable character that stands for a byte in GPT-2's vocabulary files (Radford et al.
/// 2019): visible Latin-1 characters stand for themselves, the others move behind U+00FF.
fn printable(byte: u8) -> char {
    let visible = |b: u8| matches!(b, 33..=126 | 161..=172 | 174..=255);
    if visible(byte) {
        return char::from(byte);
    }
    let rank = (0..byte).filter(|&b| !visible(b)).count() as u32;
    char::from_u32(256 + rank).unwrap_or(char::REPLACEMENT_CHARACTER)
}

/// Decodes a stream of bytes: a character is given out once its last byte has come.
#[derive(Clone, Debug, Default)]
pub struct ByteDecoder {
    pending: Vec<u8>,
}

impl ByteDecoder {
    /// Takes one byte; returns the text that it completes.
    pub fn push(&mut self, byte: u8) -> String {
        self.pending.push(byte);
        self.take(false)
    }

    /// The rest, with U+FFFD for an unfinished character.
    pub fn finish(&mut self) -> String {
        self.take(true)
    }

    fn take(&mut self, all: bool) -> String {
        let mut text = String::new();
        loop {
            match std::str::from_utf8(&self.pending) {
                Ok(valid) => {
                    text.push_str(valid);
                    self.pending.clear();
                    return text;
                }
                Err(e) => {
                    let valid = e.valid_up_to();
                    text.push_str(&String::from_utf8_lossy(&self.pending[..valid]));
                    let Some(bad) = e.error_len() else {
                        self.pending.drain(..valid);
                        if all && !self.pending.is_empty() {
                            text.push(char::REPLACEMENT_CHARACTER);
                            self.pending.clear();
                        }
                        return text;
                    };
                    text.push(char::REPLACEMENT_CHARACTER);
                    self.pending.drain(..valid + bad);
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_byte_has_its_own_character_and_its_value_as_id() {
        let json = ByteTokenizer.to_json();
        let vocab = json["model"]["vocab"].as_object().unwrap();
        assert_eq!(vocab.len(), 256);
        assert_eq!(vocab["A"], 65);
        assert_eq!(vocab["\u{120}"], 32, "the space is GPT-2's G with a dot");
        assert_eq!(vocab["\u{10a}"], 10, "the line feed");
        assert!(ByteTokenizer.is_described_by(&json));
        let mut other = json.clone();
        other["model"]["vocab"]["A"] = json!(66);
        assert!(!ByteTokenizer.is_described_by(&other));
    }

    #[test]
    fn streamed_text_is_the_text() {
        let text = "naïve – 読む 🦆";
        let mut decoder = ByteDecoder::default();
        let mut streamed: String =
            ByteTokenizer.encode(text).into_iter().map(|b| decoder.push(b)).collect();
        streamed += &decoder.finish();
        assert_eq!(streamed, text);
        let mut decoder = ByteDecoder::default();
        let mut broken: String = [b'a', 0xff, b'b', 0xe2].map(|b| decoder.push(b)).concat();
        broken += &decoder.finish();
        assert_eq!(broken, "a\u{fffd}b\u{fffd}");
    }
}
