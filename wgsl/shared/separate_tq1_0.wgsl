// TQ1_0: 52 bytes of five (the last four bytes: four) codes less 1, digits of base 3: 32 bytes, 16 and 4, of each the highest digits
// first; a scale (f16). A digit is what a byte, multiplied so that those before it are lost, has above 1 / 3 or 2 / 3 of 256.

//import bytes
//import place
//import separated

const block_groups: u32 = 8u; // of 32 columns
const block_bytes: u32 = 54u;

fn digits(bytes: vec4<u32>, power: vec4<u32>) -> vec4<u32> {
    let mask = vec4<u32>(0x00ff00ffu);
    let even = (((((bytes & mask) * power) & mask) * 3u) >> vec4<u32>(8u)) & mask;
    let odd = ((((((bytes >> vec4<u32>(8u)) & mask) * power) & mask) * 3u) >> vec4<u32>(8u)) & mask;
    return even | (odd << vec4<u32>(8u));
}

// 3 to the power of `n`, 0 to 4.
fn power_of_3(n: u32) -> u32 {
    return select(select(1u, 3u, (n & 1u) == 1u) * select(1u, 9u, (n & 2u) == 2u), 81u, n == 4u);
}

fn separate(matrix: Place, row: u32, block: u32) -> Separated {
    let at = first_byte(matrix, row, block);
    let part = block & 7u;
    var a: vec4<u32>;
    var b: vec4<u32>;
    if part < 5u {
        let power = vec4<u32>(power_of_3(part));
        let bytes = eight_words_at(at);
        a = digits(bytes[0], power);
        b = digits(bytes[1], power);
    } else {
        let bytes = words_at(at + 32u);
        let n = 2u * (part - 5u);
        a = digits(bytes, vec4<u32>(power_of_3(n)));
        if part < 7u {
            b = digits(bytes, vec4<u32>(power_of_3(n + 1u)));
        } else {
            b = digits(vec4<u32>(word_at(at + 48u)), vec4<u32>(1u, 3u, 9u, 27u));
        }
    }
    return with_scale(less(a, 1u), less(b, 1u), half_at(at + 52u));
}
