"""A search on an executor in this process, whose trials have scores that follow from their settings."""

import json
import sys
from pathlib import Path

import pytest

from finetune.batch import scheduler
from finetune.batch import search as search_module
from finetune.batch.call import Call, open_call
from finetune.batch.executors.job_process import Ended
from finetune.batch.folder import BatchFolder
from finetune.batch.jobs import JobsFile
from finetune.batch.search import Search, read_search
from finetune.batch.slurm import slurm_script
from finetune.batch.status import Display
from finetune.errors import FinetuneError, WrongUse

NIGHT = """
[defaults]
backbone = "resnet_v1_demo"
batch-size = 20
epochs = 4
[search]
{search}
[search.space]
learning-rate = {{low = 1e-4, high = 1e-2, log = true}}
freeze = [[], ["*"]]
dropout = {{low = 0.0, high = 0.5, step = 0.1}}
"""


class Killed(BaseException):
    """This process is killed here."""


class Step:
    """Counts what a batch does, and kills it at the step `at`."""

    def __init__(self, at=None):
        self.at, self.count = at, 0

    def __call__(self):
        self.count += 1
        if self.count == self.at:
            raise Killed


class Trial:
    """A run that ends an epoch whenever it is looked at. A run that goes on begins after its last epoch."""

    def __init__(self, arguments, step, *, by):
        self.step, self.by, self.stopped = step, by, False
        resumed = arguments[1] == "--resume"
        self.run = Path(arguments[2] if resumed else arguments[4])
        if not resumed:
            self.run.mkdir()
            (self.run / "config.json").write_text(Path(arguments[2]).read_text())
            if by == "map":  # what a run writes when it has seen its data
                config = json.loads((self.run / "config.json").read_text())
                (self.run / "config.json").write_text(json.dumps({**config, "select_by": by}))
        self.config = json.loads((self.run / "config.json").read_text())
        with open(self.run.parent / "begun", "a") as file:
            file.write(f"{self.run.name} {self.config['learning_rate']} {'again' if resumed else ''}\n")

    def poll(self):
        self.step()
        path = self.run / "metrics.jsonl"
        done = len(path.read_text().splitlines()) if path.exists() else 0
        if self.stopped:
            return Ended(130)
        if done == self.config["epochs"]:
            result = {"test": {f"is_training_{name}": {"accuracy": 0.5, "examples": 9} for name in ("false", "true")}}
            result |= {"proof": {"holds": True}, "train_images": 20, "epochs": 4, "train_seconds": 0.1}
            (self.run / "result.json").write_text(json.dumps(result))
            return Ended(0)
        score = self.config["learning_rate"] * 50 + 0.01 * done
        row = {"kind": "epoch", "epoch": done + 1, "step": done + 1, "seconds": 0.1}
        with open(path, "a") as file:
            file.write(json.dumps({**row, f"validation_{self.by}": score} if self.by else row) + "\n")
        return None

    def end(self, *, kill):
        self.stopped = True


class InProcess:
    """An executor of `Trial`s."""

    def __init__(self, workers=1, step=None, *, by="accuracy"):
        self.workers, self.step, self.by = workers, step or Step(), by

    def slots(self):
        return self.workers

    def describe(self):
        return "here"

    def start(self, launch):
        self.step()
        trial = Trial(launch.arguments, self.step, by=self.by)
        self.step()
        return trial

    def close(self):
        pass


class Heard(Display):
    def __init__(self):
        self.lines = []

    def job_ended(self, status):
        self.lines.append((status.job.name, status.state))


@pytest.fixture
def night(tmp_path, monkeypatch):
    """Opens a call for a file with these lines in [search], in a folder of that name."""
    monkeypatch.setattr(scheduler, "_PAUSE", 0)
    monkeypatch.setattr(scheduler, "_REFRESH", 0)
    monkeypatch.setattr(search_module, "DRAWN", 3)
    monkeypatch.setattr(Call, "_survey", lambda self, some: {job.name: {"batch_size": 20} for job in some})

    def call(search="trials = 6", folder="night", only=(), text=NIGHT):
        file = tmp_path / "night.toml"
        file.write_text(text.format(search=search))
        return open_call(file, tmp_path / folder, only=only, display=Heard())

    return call


def settings(summary):
    return [(one.job.name, one.job.config.learning_rate, one.job.config.dropout) for one in summary.statuses]


def begun(call):
    return [line.split()[:2] for line in (call.folder.path / "begun").read_text().splitlines()]


def test_a_search_from_its_first_trial_to_its_summary(night):
    call = night()
    assert [job.name for job in call.jobs] == ["trial-001", "trial-002", "trial-003"]
    summary = call.run(InProcess, fail_fast=False)
    assert summary.complete
    assert call.count == len(summary.statuses) == 6
    best = max(summary.statuses, key=lambda one: one.job.config.learning_rate)
    found = json.loads((call.folder.path / "summary.json").read_text())
    search = found["search"]
    assert found["jobs"][0]["name"] == search["best"]["name"] == best.job.name
    assert search["best"]["score"] == pytest.approx(50 * best.job.config.learning_rate + 0.03)
    assert search["best"]["command"] == best.job.config.as_command()
    assert f"--learning-rate {best.job.config.learning_rate}" in search["best"]["command"]
    assert set(search["importance"]) == {"learning_rate", "freeze", "dropout"}
    assert [one["name"] for one in search["table"]] == [f"trial-{number:03d}" for number in range(1, 7)]
    assert set(found["jobs"][0]["settings"]) <= {"learning_rate", "freeze", "dropout"}
    assert night().run(lambda: pytest.fail("nothing to run"), fail_fast=False).complete
    assert settings(night(folder="other").run(InProcess, fail_fast=False)) == settings(summary)


def test_more_trials_later_are_those_of_a_longer_search(night):
    night("trials = 5").run(InProcess, fail_fast=False)
    more = night("trials = 7").run(InProcess, fail_fast=False)
    assert settings(more) == settings(night("trials = 7", folder="other").run(InProcess, fail_fast=False))
    assert len(begun(night())) == 7


@pytest.fixture
def quick(night, monkeypatch):
    """`night` of one epoch, two drawn trials and no importance."""
    monkeypatch.setattr(search_module, "DRAWN", 2)
    monkeypatch.setattr(Search, "_importance", lambda self, scored: None)
    text = NIGHT.replace("epochs = 4", "epochs = 1")
    return lambda search, folder: night(search, folder, text=text)


@pytest.mark.quick_cases(1)
@pytest.mark.parametrize("search", ["trials = 4", 'trials = 3\nsampler = "random"'])
def test_killed_at_any_step_a_search_goes_on_and_repeats_nothing(quick, search):
    whole = Step()
    asked = settings(quick(search, "whole").run(lambda: InProcess(step=whole), fail_fast=False))
    kills = 0
    for at in range(1, whole.count + 1):
        folder = f"killed-{at}"
        killed = InProcess(step=Step(at))
        with pytest.raises(Killed):
            quick(search, folder).run(lambda killed=killed: killed, fail_fast=False)
        call = quick(search, folder)
        assert settings(call.run(InProcess, fail_fast=False)) == asked
        runs = begun(call)
        assert {tuple(one) for one in runs} == {(name, str(rate)) for name, rate, _ in asked}
        assert len(runs) <= len(asked) + 1  # the trial that was killed has two processes
        kills += len(runs) > len(asked)
    assert kills > len(asked)


def test_killed_when_its_record_is_written_too(quick, monkeypatch):
    """Before and after the file of a proposal appears, the same trial follows."""
    asked = settings(quick("trials = 4", "whole").run(InProcess, fail_fast=False))
    written = BatchFolder.write_record
    for after in (False, True):
        for at in range(1, 9):
            step = Step(at)

            def writing(self, job, record, step=step, after=after):
                if after:
                    written(self, job, record)
                step()
                if not after:
                    written(self, job, record)

            monkeypatch.setattr(BatchFolder, "write_record", writing)
            with pytest.raises(Killed):
                quick("trials = 4", f"{after}-{at}").run(InProcess, fail_fast=False)
            monkeypatch.setattr(BatchFolder, "write_record", written)
            assert settings(quick("trials = 4", f"{after}-{at}").run(InProcess, fail_fast=False)) == asked


@pytest.mark.parametrize("sampler", ["tpe", "random"])
def test_bad_trials_are_pruned_and_never_rank(night, sampler):
    search = f'trials = 16\nsampler = "{sampler}"\nprune = true'
    call = night(search)
    summary = call.run(lambda: InProcess(workers=2), fail_fast=False)
    assert summary.complete
    pruned = [one for one in summary.statuses if one.state == "pruned"]
    finished = [one for one in summary.statuses if one.state == "done"]
    assert pruned
    assert len(finished) >= 5
    for one in pruned:
        assert 2 <= one.epoch < 4
        assert one.score == pytest.approx(50 * one.job.config.learning_rate + 0.01 * (one.epoch - 1))
        assert one.job.config.learning_rate < max(other.job.config.learning_rate for other in finished)
        assert one.note == f"after epoch {one.epoch} of 4: below the median of the finished trials"
    ranks = {group.name: group.rank for group in summary.groups}
    assert all(ranks[one.job.name] is None for one in pruned)
    rows = {row["name"]: row for row in summary.to_json(call.folder)["search"]["table"]}
    assert rows[pruned[0].job.name]["score"] == pruned[0].score
    assert (pruned[0].job.name, "pruned") in call.display.lines
    before = begun(call)
    assert night(search).run(lambda: pytest.fail("nothing to run"), fail_fast=False).complete
    assert begun(call) == before


def test_a_trial_pruned_just_before_a_kill_stays_so(night):
    """The record is written before the trial is asked to stop."""
    search = 'trials = 16\nsampler = "random"\nprune = true'

    class NoEnd(InProcess):
        def start(self, launch):
            trial = super().start(launch)

            def end(*, kill):
                trial.stopped = True
                if not kill:
                    raise Killed

            trial.end = end
            return trial

    with pytest.raises(Killed):
        night(search).run(NoEnd, fail_fast=False)
    stopped = [one.job.name for one in night(search).summary_only().statuses if one.state == "pruned"]
    assert len(stopped) == 1
    count = len(begun(night(search)))
    summary = night(search).run(InProcess, fail_fast=False)
    assert summary.complete
    assert stopped[0] not in [name for name, _ in begun(night(search))[count:]]


def test_trials_wait_for_free_slots_only(night):
    call = night("trials = 9")
    heard = []
    call.display.show = lambda progress: heard.append(progress)
    call.run(lambda: InProcess(workers=3), fail_fast=False)
    running = [sum(one.state == "running" for one in progress.statuses) for progress in heard]
    assert max(running) == 3
    assert heard[0].to_come == 6
    assert heard[-1].to_come == 0


def test_without_validation_images_there_is_nothing_to_improve(night):
    with pytest.raises(FinetuneError, match=r"trial-001 has no validation accuracy, which .* set validation = 0.1"):
        night().run(lambda: InProcess(by=None), fail_fast=False)


def test_only_one_trial(night):
    call = night(only=("trial-002",))
    assert call.count == 1
    summary = call.run(InProcess, fail_fast=False)
    assert [one.state for one in summary.statuses] == ["pending", "done", "pending"]
    with pytest.raises(WrongUse, match="--only 'trial-005' is not a job"):
        night(only=("trial-005",))


def test_a_changed_file_is_rejected(night):
    night().run(InProcess, fail_fast=False)
    with pytest.raises(WrongUse, match=r"(?s)has changed since 3 of its jobs .*learning_rate is"):
        night("trials = 6\nseed = 1").check()
    narrow = NIGHT.replace("high = 0.5, step = 0.1", "high = 0.1, step = 0.1").replace("learning-rate", "learning_rate")
    with pytest.raises(WrongUse, match=r"has changed since trial-00\d .*: dropout is 0\.\d.* there, which is not in"):
        night(text=narrow)


def test_optuna_is_needed_for_its_sampler_and_pruner_only(night, monkeypatch):
    night('trials = 4\nsampler = "random"').run(InProcess, fail_fast=False)
    monkeypatch.setattr(search_module, "find_spec", lambda name: None)
    for name in [name for name in sys.modules if name.partition(".")[0] == "optuna" or name.endswith("optuna_study")]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "optuna", None)
    summary = night('trials = 5\nsampler = "random"').run(InProcess, fail_fast=False)
    assert summary.complete
    assert summary.search["importance"] is None
    assert summary.search["best"]
    with pytest.raises(FinetuneError, match=r'sampler = "tpe" in \[search\] .* pip install .*search.*or set sampler'):
        night(folder="other").check()
    with pytest.raises(FinetuneError, match=r"prune = true in \[search\] .* needs Optuna"):
        night('sampler = "random"\nprune = true', folder="other").check()


def test_slurm_takes_what_is_known_beforehand(night):
    options = {"workers": None, "cpus": None, "gpus": None}
    script = slurm_script(night('trials = 4\nsampler = "random"'), **options)
    assert "--array=1-4" in script
    for search in ("trials = 6", 'sampler = "random"\nprune = true'):
        with pytest.raises(WrongUse, match='set sampler = "random" and prune = false'):
            slurm_script(night(search), **options)


@pytest.mark.parametrize(
    ("search", "message"),
    [
        ("trials = 0", "trials in .* is 0: expected a whole number from 1 to 10000"),
        ("trials = 2.5", "trials in .* is 2.5: expected a whole number"),
        ("seed = -1", "seed in .* is -1: expected a whole number from 0"),
        ('sampler = "tp"', "sampler in .* is 'tp': .*expected one of tpe, random"),
        ('metric = "f1"', "metric in .* is 'f1': .*expected one of accuracy"),
        ("prune = 1", "prune in .* is 1: expected true or false"),
        ("trial = 3", "unknown key 'trial' in .* did you mean trials"),
        ("epochs = 3", "unknown key 'epochs' in .* a setting goes into"),
    ],
)
def test_errors_of_the_table(night, search, message):
    with pytest.raises(WrongUse, match=message):
        night(search)


def test_without_a_metric_it_is_the_one_that_the_data_gave_to_the_runs(night):
    """Of images with several labels a run writes `map` into its config.json."""
    call = night("trials = 2")
    assert call.search.metric is None
    search = call.run(lambda: InProcess(by="map"), fail_fast=False).search
    rates = [one["settings"]["learning_rate"] for one in search["table"]]
    assert search["metric"] == "map"
    assert [one["score"] for one in search["table"]] == pytest.approx([50 * rate + 0.03 for rate in rates])
    assert search["best"]["settings"]["learning_rate"] == max(rates)


def test_a_metric_is_what_every_trial_selects_by(night):
    call = night('metric = "loss"')
    assert call.search.metric == "loss"
    assert {job.config.select_by for job in call.jobs} == {"loss"}
    text = NIGHT.replace("epochs = 4", 'epochs = 4\nselect-by = "macro-f1"')
    assert night(text=text).search.metric == "macro-f1"
    with pytest.raises(WrongUse, match=r'metric = "loss" .* and select-by = "macro-f1" .* contradict each other'):
        night('metric = "loss"', text=text)


@pytest.mark.parametrize(
    ("lines", "message"),
    [
        ('[search]\n[search.space]\nlr=[0.1,0.2]\n[[job]]\nname="a"', r"\[search\] chooses the jobs itself: leave"),
        ('[search]\n[search.space]\nselect-by=["loss","accuracy"]', "select_by in .* makes no trial better"),
        ("[search]\n[search.space]\nfocal-gamma=[1,2]", "focal-gamma.*focal"),
        ("[search]\n[search.space]\nema=[0.9,0.99]\npatience=[1,2]", "contradict each other"),
        ("[search]\ntrials=3", r"\[search\] has no space: give \[search.space\]"),
    ],
)
def test_what_does_not_go_together(tmp_path, lines, message):
    file = tmp_path / "night.toml"
    file.write_text(f'[defaults]\nbackbone = "resnet_v1_demo"\n{lines}')
    with pytest.raises(WrongUse, match=message):
        read_search(JobsFile(file))
    file.write_text('[defaults]\nbackbone = "resnet_v1_demo"\n[search.space]\nlr=[0.1,0.2]')
    with pytest.raises(WrongUse, match="seeds contradict each other"):
        read_search(JobsFile(file), seeds=2)
