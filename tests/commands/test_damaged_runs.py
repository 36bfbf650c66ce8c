"""Run directories that somebody changed, cut or holds: one message, and nothing in them is touched."""

import json
import os
import shutil
from pathlib import Path

import numpy as np
import pytest

from finetune.runs.directory import RunDir
from tests.commands.bad_places import Evil


@pytest.mark.parametrize(
    ("change", "exit_code", "words"),
    [
        ({"epoch": 3}, 2, ("unknown key 'epoch'", "did you mean 'epochs'?")),
        ({"epochs": "3"}, 2, ("--epochs '3'", "config.json", "whole number")),
        ({"epochs": True}, 2, ("--epochs True", "whole number")),
        ({"backbone": 3}, 2, ("--backbone 3", "finetune backbones list")),
        ({"freeze": "block1"}, 2, ("--freeze 'block1'", "a list of PATTERN")),
        ({"bn": [1]}, 2, ("--bn [1]", "a list of")),
        ({"deterministic": "no"}, 2, ("--deterministic 'no'", "true or false")),
        ({"optimizer": None}, 2, ("--optimizer None", "sgd, adamw")),
        ({"data_dir": 3}, 2, ("--data-dir 3", "a path")),
        ({"seed": None}, 2, ("--seed None", "whole number")),
        ({"bn_decay": 2}, 2, ("--bn-decay 2", "inside (0, 1)")),
        ({"format_version": 99}, 1, ("format_version 99", "upgrade")),
        ({"format_version": "1"}, 1, ("format_version '1'",)),
        ({"epochs": 8}, 1, ("'epochs' is 8", "interrupted with 3")),
        ({"bn_updates": "off"}, 1, ("'bn_updates' is 'off'", "interrupted with 'on'")),
    ],
)
def test_a_config_that_was_changed_by_hand(change, exit_code, words, place, interrupted, refused):
    run = place / "changed"
    shutil.copytree(interrupted, run)
    try:
        config = json.loads((run / "config.json").read_text())
        (run / "config.json").write_text(json.dumps({**config, **change}))
        refused("run --resume changed", exit_code, *words)
    finally:
        shutil.rmtree(run)


def rewrite(text):
    return lambda path: path.write_text(text)


def cut(path):
    os.truncate(path, path.stat().st_size // 2)


def without_an_array(path):
    np.savez(path, **{name: array for name, array in np.load(path).items() if name != "model/3"})


def with_an_object(path):
    np.savez(path, **np.load(path), extra=np.array([Evil()], object))


PROVED = '{"class_names": ["a"], "steps": 1, "proof": %s}'


@pytest.mark.parametrize(
    ("source", "name", "damage", "command", "words"),
    [
        ("interrupted", "checkpoints/state.npz", cut, "run --resume", ("state.npz is damaged", "delete it")),
        ("interrupted", "checkpoints/state.npz", rewrite(""), "run --resume", ("state.npz is damaged",)),
        ("interrupted", "checkpoints/state.npz", with_an_object, "run --resume", ("state.npz is damaged",)),
        ("interrupted", "checkpoints/state.npz", without_an_array, "run --quiet --resume", ("does not fit",)),
        ("interrupted", "config.json", cut, "run --resume", ("config.json is not JSON",)),
        ("interrupted", "config.json", rewrite("[]"), "run --resume", ("config.json holds a JSON list",)),
        ("interrupted", "freeze.json", cut, "run --resume", ("freeze.json is not JSON",)),
        ("interrupted", "freeze.json", Path.unlink, "run --resume", ("freeze.json is missing",)),
        ("interrupted", "freeze.json", rewrite("{}"), "run --resume", ("freeze.json has no 'digests'",)),
        (
            *("interrupted", "freeze.json", rewrite('{"digests": {}, "stages": []}'), "run --quiet --resume"),
            ("freeze.json is of another model",),
        ),
        ("finished", "model.keras", cut, "evaluate", ("model.keras is cut off",)),
        ("finished", "model.keras", Path.unlink, "evaluate", ("model.keras is missing", "--config")),
        ("finished", "result.json", cut, "evaluate", ("result.json is not JSON",)),
        ("finished", "result.json", rewrite("{}"), "diagnose-bn", ("result.json has no 'class_names'",)),
        *(
            (
                "finished",
                "result.json",
                rewrite(PROVED % proof),
                "features --layer block2 --out x.npz",
                ("has no proof",),
            )
            for proof in (
                "[]",
                "{}",
                '{"holds": false}',
                '{"holds": 0, "phases": 1}',
                '{"holds": 0, "moved_though_frozen": 2}',
            )
        ),
        ("finished", "freeze.json", rewrite("[]"), "diagnose-bn", ("freeze.json holds a JSON list",)),
        ("finished", "bn_source.npz", cut, "diagnose-bn", ("bn_source.npz is damaged", "delete it")),
        ("finished", "config.json", rewrite("null"), "recalibrate-bn", ("config.json holds a JSON null",)),
    ],
)
def test_a_damaged_run(source, name, damage, command, words, place, finished, interrupted, refused):
    run = place / "a run"
    shutil.copytree(interrupted if source == "interrupted" else finished[0], run)
    try:
        damage(run / name)
        refused(f"{command} 'a run'", 1, *words)
    finally:
        shutil.rmtree(run)


def test_a_run_that_another_process_holds(place, interrupted, refused):
    with RunDir(place / "stopped run").locked():
        refused("run --resume 'stopped run'", 1, f"stopped run is in use by process {os.getpid()} on ")
