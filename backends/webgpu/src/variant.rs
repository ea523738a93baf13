//! Which of an adapter's abilities the shaders use.

use starling_contract::{Error, Result};
use std::fmt;
use std::str::FromStr;

/// The abilities beyond the browser's baseline that shaders are written for.
///
/// The baseline (`plain`) has no subgroups and no f16 arithmetic, 16 KiB of workgroup memory, 256
/// invocations in a workgroup and 8 storage buffers. `STARLING_WEBGPU` forces a variant by name:
/// `plain`, `subgroup`, `f16`, `matrix` (which implies the others), or several joined by `+`; see
/// [`Options`] for two more words.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Variant {
    /// Reductions across the lanes of a subgroup.
    pub subgroups: bool,
    /// The type f16 in shaders.
    pub f16: bool,
    /// Cooperative matrices: f16 in, f32 out.
    pub matrix: bool,
}

impl Variant {
    const NAMES: [&'static str; 3] = ["subgroup", "f16", "matrix"];

    fn flags(self) -> [bool; 3] {
        [self.subgroups, self.f16, self.matrix]
    }

    /// True when `self` uses nothing that `other` lacks.
    pub fn within(self, other: Self) -> bool {
        self.flags().into_iter().zip(other.flags()).all(|(mine, theirs)| theirs || !mine)
    }
}

impl fmt::Display for Variant {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let on = self.flags().into_iter().zip(Self::NAMES).filter(|(on, _)| *on);
        let names: Vec<&str> = on.map(|(_, name)| name).collect();
        f.write_str(if names.is_empty() { "plain" } else { "" })?;
        f.write_str(&names.join("+"))
    }
}

impl FromStr for Variant {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        let mut variant = Self::default();
        for name in text.split('+').filter(|name| *name != "plain") {
            match name {
                "subgroup" => variant.subgroups = true,
                "f16" => variant.f16 = true,
                // The kernels with matrices need the others too.
                "matrix" => variant = Self { subgroups: true, f16: true, matrix: true },
                _ => {
                    let reason = format!(
                        "unknown variant {name:?}: use plain, subgroup, f16 or matrix, joined by +"
                    );
                    return Err(Error::Unavailable { backend: "webgpu".into(), reason });
                }
            }
        }
        Ok(variant)
    }
}

/// What a caller asks of a device beyond its number.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Options {
    /// The shaders' variant; what the adapter can do best when `None`.
    pub variant: Option<Variant>,
    /// Keeps the checks that the shader compiler can add: bounds, loop limits, zeroed workgroup
    /// memory. The shaders do not need them; tests run both ways.
    pub checked: bool,
    /// Plans for silicon even on a driver that computes on the processor, so that tests reach the
    /// kernels of real devices without one.
    pub hardware: bool,
}

impl Options {
    /// What `STARLING_WEBGPU` says.
    ///
    /// # Errors
    /// [`Error::Unavailable`] for an unknown part.
    pub fn from_env() -> Result<Self> {
        match std::env::var("STARLING_WEBGPU") {
            Ok(text) => text.parse(),
            Err(_) => Ok(Self::default()),
        }
    }
}

/// The parts of a [`Variant`], and `checked` and `hardware`, joined by `+`: `plain+checked`.
impl FromStr for Options {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        let mut options = Self::default();
        let mut rest = Vec::new();
        for part in text.split('+').filter(|p| !p.is_empty()) {
            match part {
                "checked" => options.checked = true,
                "hardware" => options.hardware = true,
                other => rest.push(other),
            }
        }
        if !rest.is_empty() {
            options.variant = Some(rest.join("+").parse()?);
        }
        Ok(options)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_read_back() {
        for text in ["plain", "subgroup", "f16", "subgroup+f16", "subgroup+f16+matrix"] {
            assert_eq!(text.parse::<Variant>().unwrap().to_string(), text);
        }
        assert!("subgroups".parse::<Variant>().is_err());
        let both: Variant = "subgroup+f16".parse().unwrap();
        assert!(Variant::default().within(both) && !both.within(Variant::default()));
    }
}
