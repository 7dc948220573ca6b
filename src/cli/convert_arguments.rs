//! Arguments of `diagnose convert`.

use std::path::PathBuf;

use clap::{Args, Subcommand, ValueEnum};

use super::device_arguments::DtypeArgument;
use crate::model::{MixedBits, QuantizationMode};

/// What can be converted.
#[derive(Debug, Subcommand)]
pub enum Convert {
    /// A model of any format that is read, to a folder of mlx-lm
    Model(ConvertModelArguments),
    /// A finished adapter of mlx-lm, mlx-examples or PEFT
    Adapter {
        /// Its folder
        source: PathBuf,
        /// The format to write
        #[arg(long, value_enum, value_name = "FORMAT")]
        to: AdapterFormatArgument,
        /// A new folder for it
        #[arg(long, value_name = "DIR")]
        out: PathBuf,
        /// Its base; for mlx-lm, so that the adapted blocks can be counted from the last
        #[arg(long, value_name = "DIR|FILE.gguf|HUB_ID")]
        model: Option<String>,
    },
}

/// Options of a model's conversion.
#[derive(Debug, Args)]
pub struct ConvertModelArguments {
    /// Model folder (safetensors, torch or npz), GGUF file or hub id
    #[arg(value_name = "DIR|FILE.gguf|HUB_ID")]
    pub source: String,
    /// A new folder for it
    #[arg(long, value_name = "DIR")]
    pub out: PathBuf,
    /// Element type of plain weights [default: what config.json declares, else that of most weights]
    #[arg(long, value_name = "D", value_enum)]
    pub dtype: Option<DtypeArgument>,
    /// Pack weights in this many bits: 2, 3, 4, 5, 6 or 8 [default: 4, and 8 for mxfp8]
    #[arg(long, value_name = "N", conflicts_with = "quant_predicate")]
    pub bits: Option<i32>,
    /// Weights that share one scale: 32, 64 or 128 [default: 64, 32 for mxfp4 and mxfp8, 16 for nvfp4]
    #[arg(long, value_name = "N")]
    pub group_size: Option<i32>,
    /// How to pack [default: affine]
    #[arg(long, value_name = "MODE", value_enum)]
    pub mode: Option<ModeArgument>,
    /// Pack with more bits for the modules that matter most, by mlx-lm's recipe
    #[arg(long, value_name = "RECIPE", value_enum)]
    pub quant_predicate: Option<RecipeArgument>,
    /// Make packed weights plain
    #[arg(long, conflicts_with_all = ["bits", "group_size", "mode", "quant_predicate"])]
    pub dequantize: bool,
}

/// MLX's ways of packing.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum ModeArgument {
    /// Integers with a scale and a bias per group
    Affine,
    /// Microscaling 4-bit floats
    Mxfp4,
    /// NVIDIA's 4-bit floats
    Nvfp4,
    /// Microscaling 8-bit floats
    Mxfp8,
}

impl From<ModeArgument> for QuantizationMode {
    fn from(argument: ModeArgument) -> Self {
        match argument {
            ModeArgument::Affine => Self::Affine,
            ModeArgument::Mxfp4 => Self::Mxfp4,
            ModeArgument::Nvfp4 => Self::Nvfp4,
            ModeArgument::Mxfp8 => Self::Mxfp8,
        }
    }
}

/// mlx-lm's recipes of mixed bits.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum RecipeArgument {
    /// 2 bits, and 6 for what matters most
    #[value(name = "mixed_2_6")]
    Mixed2And6,
    /// 3 and 4
    #[value(name = "mixed_3_4")]
    Mixed3And4,
    /// 3 and 6
    #[value(name = "mixed_3_6")]
    Mixed3And6,
    /// 4 and 6
    #[value(name = "mixed_4_6")]
    Mixed4And6,
}

impl From<RecipeArgument> for MixedBits {
    fn from(argument: RecipeArgument) -> Self {
        match argument {
            RecipeArgument::Mixed2And6 => Self::TwoSix,
            RecipeArgument::Mixed3And4 => Self::ThreeFour,
            RecipeArgument::Mixed3And6 => Self::ThreeSix,
            RecipeArgument::Mixed4And6 => Self::FourSix,
        }
    }
}

/// Formats of adapters.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum AdapterFormatArgument {
    /// mlx-lm's
    MlxLm,
    /// PEFT's
    Peft,
}
