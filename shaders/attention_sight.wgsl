//% if SIGHT
// What the kernels of attention begin with where more than `causal` and a mask decides what a query
// sees (Sight of the contract), or positions matter.

struct Sight {
    // The keys of its batch element that the query sees.
    begin: u32,
    end: u32,
    // The query's position in its sequence, and the key at position 0.
    query: f32,
    origin: u32,
}

fn position(key: u32, origin: u32) -> f32 {
    return f32(i32(key) - i32(origin));
}

//% if SAVED
// What attention_delta.wgsl put aside for a query.
fn saved_sight(row: u32) -> Sight {
    let at = rows_at(ROW * row + 2u);
    return Sight(rows_bits(at), rows_bits(at + 1u), rows_load(at + 2u), rows_bits(at + 3u));
}
//% else
// Where the keys of a query's sequence begin and end, and how far they stand behind the queries.
fn sequence(batch: u32, query: u32) -> vec3<i32> {
    //% if PACKED
    let q = q_starts_at(batch);
    let k = k_starts_at(batch);
    for (var s = 0u; s + 1u < $starts; s++) {
        let next = q_starts_held(q + (s + 1u) * $q_starts_step, $queries);
        if i32(query) >= q_starts_held(q + s * $q_starts_step, $queries) && i32(query) < next {
            let begin = k_starts_held(k + s * $k_starts_step, $keys);
            let end = k_starts_held(k + (s + 1u) * $k_starts_step, $keys);
            return vec3<i32>(begin, max(begin, end), end - next);
        }
    }
    return vec3<i32>();
    //% else
    //% if LENGTHS
    let keys = lengths_held(lengths_at(batch), $keys);
    //% else
    let keys = i32($keys);
    //% end
    return vec3<i32>(0, keys, keys - i32($queries));
    //% end
}

fn sight_of(batch: u32, query: u32) -> Sight {
    let own = sequence(batch, query);
    let at = i32(query) + own.z;
    let window = i32($window);
    let begin = max(own.x, at - window + 1);
    var end = min(own.y, at + window);
    if $causal != 0u {
        end = min(end, at + 1);
    }
    return Sight(u32(begin), u32(max(begin, end)), f32(at - own.x), u32(own.x));
}

//% if SAVES
fn save_sight(row: u32, sight: Sight) {
    let at = rows_at(ROW * row + 2u);
    rows_put(at, sight.begin);
    rows_put(at + 1u, sight.end);
    rows_store(at + 2u, sight.query);
    rows_put(at + 3u, sight.origin);
}
//% end
//% end
//% end

