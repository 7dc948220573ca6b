//! Recipes that give some modules more bits, as mlx-lm's `--quant-predicate`.

use super::Packing;

/// A recipe: the modules that matter most, by llama.cpp's experience with `Q4_K_M`, get the higher number of bits.
///
/// Source: `mixed_quant_predicate_builder` in `mlx_lm/convert.py`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum MixedBits {
    /// 2 bits, and 6 for the modules that matter most.
    TwoSix,
    /// 3 and 4.
    ThreeFour,
    /// 3 and 6.
    ThreeSix,
    /// 4 and 6.
    FourSix,
}

impl MixedBits {
    /// The lower and the higher number of bits.
    fn bits(self) -> (i32, i32) {
        match self {
            Self::TwoSix => (2, 6),
            Self::ThreeFour => (3, 4),
            Self::ThreeSix => (3, 6),
            Self::FourSix => (4, 6),
        }
    }

    /// The packing of most modules, in groups of `group_size` weights.
    pub fn common(self, group_size: i32) -> Packing {
        Packing::affine(group_size, self.bits().0)
    }

    /// The packing of the module at `path` in a model of `layers` blocks: the value and down projections of the first
    /// and last eighth of the blocks and of every third between, and the output layer, get the higher number of bits.
    pub fn packing(self, path: &str, layers: usize, group_size: i32) -> Packing {
        let index = path.split('.').find_map(|part| part.parse().ok()).unwrap_or(0);
        let eighth = layers / 8;
        let is_outer = index < eighth || index >= 7 * layers / 8;
        let matters = is_outer || (index >= eighth && (index - eighth) % 3 == 2);
        let is_chosen = ["v_proj", "v_a_proj", "v_b_proj", "down_proj"]
            .iter()
            .any(|name| path.contains(name));
        let is_high = path.contains("lm_head") || (is_chosen && matters);
        let (low, high) = self.bits();
        Packing::affine(group_size, if is_high { high } else { low })
    }
}
