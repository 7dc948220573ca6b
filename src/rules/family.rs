/// Rules about one part of a fine-tuning run; their codes begin alike.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Family {
    /// What the codes begin with, for example `ATTACH`.
    pub prefix: &'static str,
    /// The part of the run, as a title.
    pub subject: &'static str,
}

/// Every family, in the order in which a run meets them.
pub static FAMILIES: &[Family] = &[
    Family {
        prefix: "MODEL",
        subject: "Model files",
    },
    Family {
        prefix: "DATA",
        subject: "Training data",
    },
    Family {
        prefix: "MASK",
        subject: "Which tokens the loss counts",
    },
    Family {
        prefix: "EOS",
        subject: "The end of an answer",
    },
    Family {
        prefix: "MEM",
        subject: "Memory",
    },
    Family {
        prefix: "ATTACH",
        subject: "Attaching adapters and freezing the base",
    },
    Family {
        prefix: "OPT",
        subject: "Gradients, optimizer and loss",
    },
    Family {
        prefix: "RANK",
        subject: "Several processes that train together",
    },
    Family {
        prefix: "NUM",
        subject: "Numbers that are not finite or not precise",
    },
    Family {
        prefix: "SCALE",
        subject: "Size of the update",
    },
    Family {
        prefix: "SAVE",
        subject: "Saving and loading",
    },
    Family {
        prefix: "FUSE",
        subject: "Fusing adapters into the weights",
    },
    Family {
        prefix: "GEN",
        subject: "Answers",
    },
];
