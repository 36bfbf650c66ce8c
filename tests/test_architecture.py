"""The picture in docs/architecture.md is what the imports are, and the limits of size and naming hold."""

import ast
import subprocess
import sys

from tests import architecture_report as report
from tests.support.places import ROOT

SURFACES = {
    "config": {"", "presets"},
    "batchnorm": {
        *("layer", "module_parts", "policy", "surgery", "statistics", "subject", "scores", "decay", "flatten", "live"),
    },
    "data": {
        *("load_data", "balance", "batches", "channels", "dataset", "geometry", "preprocessing", "image_files"),
        "overlap",
        "label_sets",
        *(
            "sources.assembly",
            "sources.generated",
            "sources.record_copies",
            "pipeline",
            "augmentation",
            "lazy",
            "decoding",
            "given",
            "exclusion",
        ),
        *("check.findings", "check.kinds", "check.measures"),
    },
    "evaluation": {"evaluator", "predictions", "metrics", "selection", "significance", "linear_probe", "temperature"},
    "backbone": {
        *("", "architecture_file", "head", "outputs", "freezing", "endpoints", "conversion", "networks.names", "stock"),
    },
    "tf_graphs": {""},
    "runs": {"request", "directory", "run_data", "model", "preview", "views"},
    "diagnosis": {
        *("", "doctor", "targets.opening", "targets.options", "measure", "verdict", "evidence", "rules.rule"),
        *("targets.from_python", "targets.in_memory", "targets.demo", "monitor"),
    },
    "reporting": {
        *(
            "run_report",
            "pages",
            "rendering",
            "curves",
            "words",
            "data_check",
            "data_page",
            "pictures",
            "sheet",
            "heat_maps",
        ),
    },
    "inference": {"predict", "classifier", "grad_cam", "embeddings", "verification", "export.write", "export.exported"},
    "batch": {
        *("jobs", "call", "folder", "status", "survey", "summary", "slurm"),
        *("executors.job_process", "executors.local", "executors.ray_cluster"),
    },
    "training": {
        *("start", "average", "data_report", "display", "feature_cache.feature_store", "feature_cache.image_features"),
    },
    "cli": set(),
}
"""The modules of each package that other packages may import; "" is the package itself. All of `checkpoints` is."""

NO_TENSORFLOW = (
    *(
        "finetune.reporting",
        "finetune.config",
        "finetune.inference.export.exported",
    ),
    *(
        "finetune.evaluation.predictions",
        "finetune.evaluation.metrics",
        "finetune.evaluation.temperature",
        "finetune.evaluation.significance",
    ),
    "finetune.evaluation.selection",
    *("finetune.runs.directory", "finetune.runs.run_data"),
    *("checkpoints.catalog", "checkpoints.matching"),
)
PLUG_INS = {
    "finetune.backbone.networks": "the module of a row's family",
    "finetune.training.tracking.trackers": "the module of a tracker",
    "finetune.data.preprocessing": "module:function of --preprocess",
    "finetune.batch.executors.warm": "what a job imports, before it is forked",
}
"""Modules that import by a name that is data."""


def test_a_package_imports_what_it_reaches_along_the_arrows():
    drawn = report.arrows()
    wrong = [
        f"{a} --> {b}: {where}"
        for (a, b), where in report.package_imports().items()
        if b not in report.reachable(a, drawn)
    ]
    assert not wrong, "no way along the arrows of docs/architecture.md:\n" + "\n".join(wrong)


def test_every_arrow_is_needed():
    code = report.package_imports()
    idle = [f"{a} --> {b}" for a, b in sorted(report.arrows()) if (a, b) not in code]
    assert not idle, f"drawn, but nothing imports along them: {idle}"


def test_the_limits_of_the_picture():
    drawn = report.arrows()
    packages = {name for name in map(report.package, report.modules()) if name}
    assert {name for arrow in drawn for name in arrow} == packages
    assert len(packages) <= 14
    assert len(drawn) <= 20
    assert len(report.floors(drawn)) <= 7
    assert set(report.loose()) <= set(report.LOOSE)
    assert not report.circles()


def test_other_packages_use_the_surface():
    wrong = []
    for module in report.modules():
        for target in report.imports(module):
            owner = report.package(target)
            if owner in SURFACES and report.package(module) not in (owner, None):
                inner = target.removeprefix(f"finetune.{owner}").removeprefix(".")
                if inner not in SURFACES[owner]:
                    wrong.append(f"{module} imports {target}, which is private to {owner}")
    assert not wrong, "\n".join(sorted(wrong))


def test_the_loop_knows_no_run():
    allowed = ("finetune.training.loop", "finetune.training.distribution")
    wrong = [
        f"{module} imports {target}"
        for module in report.modules()
        if module.startswith("finetune.training.loop")
        for target in report.imports(module)
        if (report.package(target) in ("runs", "reporting", "diagnosis"))
        or (report.package(target) == "training" and not target.startswith(allowed))
    ]
    assert not wrong, "\n".join(wrong)


def test_what_reads_files_imports_no_tensorflow():
    names = [name for name in report.modules() if name.startswith(NO_TENSORFLOW)]
    assert len(names) >= 30
    program = f"import sys, importlib\nfor name in {names}:\n importlib.import_module(name)\n"
    program += " assert 'tensorflow' not in sys.modules, name"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr


def test_a_graph_as_data_opens_no_session():
    for module, path in report.modules().items():
        if module.startswith("finetune.tf_graphs.program"):
            names = {node.attr for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, ast.Attribute)}
            assert not names & {"Session", "InteractiveSession"}, module
            assert "finetune.tf_graphs.graph_subject" not in report.imports(module), module


def test_networks_are_keras_alone():
    for module, path in report.modules().items():
        if module.startswith("finetune.backbone.networks"):
            found = set()
            for node in ast.walk(ast.parse(path.read_text())):
                if isinstance(node, ast.Import):
                    found |= {alias.name.partition(".")[0] for alias in node.names}
                elif isinstance(node, ast.ImportFrom):
                    found.add("" if node.module.startswith("finetune.backbone.networks") else node.module)
            found -= {"", "keras"}
            assert all(name.partition(".")[0] in sys.stdlib_module_names for name in found), (module, found)


def test_imports_by_name_are_plug_ins():
    found = {name for name, path in report.modules().items() if "import_module" in path.read_text()}
    assert found <= set(PLUG_INS), found - set(PLUG_INS)


def test_functions_fit_on_a_screen():
    long = [f"{place}: {lines} lines" for lines, _, place in report.functions() if lines > 60]
    wide = [
        f"{place}: {count} parameters"
        for _, count, place in report.functions()
        if count > 8 and not place.startswith("finetune.cli.")
    ]
    assert not [*long, *wide], "\n".join([*long, *wide])


def test_no_module_name_stands_for_two_things():
    assert set(report.same_names()) <= {"errors"}, report.same_names()


def test_modules_fit_in_one_head():
    long = {
        name: count for name, path in report.modules().items() if (count := len(path.read_text().splitlines())) > 400
    }
    assert not long, f"modules over 400 lines are two ideas: {long}"


def test_a_unit_test_is_named_after_a_module_of_its_folder():
    """`tests/unit/data/test_lazy.py`, or `test_lazy_WHAT.py`, tests `finetune/data/lazy.py`."""
    units, lost = ROOT / "tests" / "unit", []
    for path in units.rglob("test_*.py"):
        folder = path.relative_to(units).parent
        if folder.parts[:1] in (("benchmarks",), ("tools",)):
            continue
        place = ROOT / folder if folder.parts[:1] == ("checkpoints",) else ROOT / "finetune" / folder
        modules = {one.stem for one in place.iterdir() if one.suffix == ".py" or one.is_dir()}
        if not any(f"{path.stem}_".startswith(f"test_{module}_") for module in modules):
            lost.append(str(path))
    assert not lost, "\n".join(lost)
