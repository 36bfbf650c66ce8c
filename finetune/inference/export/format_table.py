"""The export formats and the names of their files. No TensorFlow, so that `--help` can list them quickly."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from finetune.errors import WrongUse


@dataclass(frozen=True)
class Format:
    """One row of `FORMATS`.

    words: the description in `--help`. name: of the file or folder, where several formats go into one directory.
    ending: what a name given for it must end in; None for a prefix or a folder.
    """

    words: str
    name: str
    ending: str | None


FORMATS = {
    "keras": Format("stock layers, safe to load, trainable", "model.keras", ".keras"),
    "savedmodel": Format("TensorFlow Serving and the like", "saved_model", None),
    "tflite": Format("phones and small devices", "model.tflite", ".tflite"),
    "onnx": Format("onnxruntime and the like", "model.onnx", ".onnx"),
    "slim": Format("a TF1 slim checkpoint: tf_slim's networks restore it by name", "slim/model.ckpt", None),
}


def file_names(out: Path, forms: Sequence[str]) -> dict[str, str]:
    """Each of `forms` with the path of its file or folder within the directory it goes to.

    Raises WrongUse where none is given, or `out` has the ending of another format.
    """
    forms = list(dict.fromkeys(forms))
    if not forms:
        raise WrongUse(f"no format is given: expected one or more of {', '.join(FORMATS)}")
    endings = [one.ending for one in FORMATS.values() if one.ending]
    if len(forms) > 1:
        if out.suffix in endings:
            raise WrongUse(f"--out {out}: several formats go into one directory: give its name, without {out.suffix}")
        return {form: FORMATS[form].name for form in forms}
    (form,) = forms
    ending = FORMATS[form].ending
    if ending and out.suffix != ending:
        raise WrongUse(f"--out {out}: a {form} file ends in {ending}: give {out.with_suffix(ending)}")
    if form == "savedmodel" and out.suffix in endings:
        raise WrongUse(f"--out {out}: a SavedModel is a directory: give {out.with_suffix('')}")
    return {form: out.name}
