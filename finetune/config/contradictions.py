"""Settings that contradict each other, each pair with the reason."""

from typing import TYPE_CHECKING

from finetune.errors import WrongUse

if TYPE_CHECKING:
    from finetune.config.run_config import RunConfig


def refuse_contradictions(config: "RunConfig") -> None:
    """WrongUse naming the first two settings of `config` that cannot both hold."""
    kept_head = "the head is the file's"
    keep = config.head == "keep"
    for first, second, both, why in (
        ("--from-scratch", "--checkpoint", config.from_scratch and config.checkpoint is not None, ""),
        ("--examples", "--few-shot", config.examples is not None and config.few_shot is not None, "both say how many"),
        (
            *("--ema", "--patience", config.ema is not None and config.patience is not None),
            "the average ends with the last step, the other keeps the best epoch",
        ),
        ("--head keep", "--from-scratch", keep and config.from_scratch, kept_head),
        ("--head keep", "--hidden", keep and config.hidden is not None, kept_head),
        ("--head keep", "--dropout", keep and config.dropout > 0, kept_head),
        ("--head keep", "--features", keep and config.features is not None, kept_head),
        *(
            (f"--distribute {config.distribute}", option, config.distribute != "none" and given, why)
            for option, given, why in (
                ("--mixup", config.mixup is not None, "it pairs the images of a whole batch"),
                ("--cutmix", config.cutmix is not None, "it pairs the images of a whole batch"),
                ("--rand-augment", config.rand_augment is not None, "it draws for a whole batch"),
                ("--ema", config.ema is not None, "the average is kept on one device"),
                ("--lr auto", config.learning_rate == "auto", "the range test runs on one device"),
                ("--preset gradual", config.preset == "gradual", "layers are unfrozen on one device"),
                ("--unfreeze-epochs", config.unfreeze_epochs is not None, "layers are unfrozen on one device"),
                ("--microbatch", config.microbatch is not None, "each replica has a part of the batch already"),
            )
        ),
    ):
        if both:
            raise WrongUse(f"{first} and {second} contradict each other{why and ', '}{why}: give one of them")
