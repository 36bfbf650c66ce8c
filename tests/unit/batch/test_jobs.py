"""What a jobs file asks for, and what is said of one that is not valid. Nothing here imports TensorFlow."""

import pytest

from finetune.batch.jobs import read_jobs, safe_name, select_jobs
from finetune.config import PATHS, RunConfig
from finetune.errors import FinetuneError, WrongUse

GRID = """
[defaults]
data = "demo-target"
epochs = 3
[matrix]
backbone = ["resnet_v1_50", "keras/resnet50", "inception_v3"]
freeze = [["*"], ["block4=train", "*"]]
bn-decay = [0.95, "auto"]
exclude = [{backbone = "inception_v3", freeze = ["block4=train", "*"]}, {backbone = "keras/resnet50", bn_decay = 0.95}]
"""


@pytest.fixture
def read(tmp_path):
    def from_text(text, **options):
        path = tmp_path / "night.toml"
        path.write_text(text)
        return read_jobs(path, **options)

    return from_text


def test_lists_are_crossed_without_what_is_excluded(read):
    found = read(GRID)
    # 3 x 2 x 2, without 1 x 1 x 2 and without 1 x 2 x 1.
    assert [job.name for job in found] == [
        "resnet_v1_50-freeze_all-bn_decay_0.95",
        "resnet_v1_50-freeze_all-bn_decay_auto",
        "resnet_v1_50-freeze_block4_train_all-bn_decay_0.95",
        "resnet_v1_50-freeze_block4_train_all-bn_decay_auto",
        "keras-resnet50-freeze_all-bn_decay_auto",
        "keras-resnet50-freeze_block4_train_all-bn_decay_auto",
        "inception_v3-freeze_all-bn_decay_0.95",
        "inception_v3-freeze_all-bn_decay_auto",
    ]
    assert [job.index for job in found] == list(range(1, 9))
    assert found[2].config == RunConfig(
        backbone="resnet_v1_50", data="demo-target", epochs=3, freeze=("block4=train", "*"), bn_decay=0.95
    )


def test_single_jobs_stand_beside_the_matrix_and_win_over_defaults(read):
    text = """
        [defaults]
        backbone = "resnet_v1_50"
        epochs = 3
        [matrix]
        seed = [0, 1]
        [[job]]
        name = "from scratch"
        from-scratch = true
        epochs = 9
        [[job]]
        bn = ["block1/*=train", "freeze"]
    """
    found = read(text)
    assert [(job.name, job.config.epochs, job.config.from_scratch) for job in found] == [
        *(("seed_0", 3, False), ("seed_1", 3, False), ("from_scratch", 9, True)),
        ("bn_block1_all_train_freeze", 3, False),
    ]
    assert found[3].config.bn == ("block1/*=train", "freeze")


def test_a_short_name_is_its_setting(read):
    text = (
        '[defaults]\nbackbone = "resnet_v1_50"\n[matrix]\nlr = ["auto", 0.01]\npreset = ["linear-probe", "fine-tune"]'
    )
    assert [(job.name, job.config.learning_rate, job.config.preset) for job in read(text)] == [
        ("learning_rate_auto-preset_linear-probe", "auto", "linear-probe"),
        ("learning_rate_auto-preset_fine-tune", "auto", "fine-tune"),
        ("learning_rate_0.01-preset_linear-probe", 0.01, "linear-probe"),
        ("learning_rate_0.01-preset_fine-tune", 0.01, "fine-tune"),
    ]
    with pytest.raises(WrongUse, match=r"'learning_rate' comes twice in .*, spelt in two ways"):
        read('[[job]]\nbackbone = "resnet_v1_50"\nlr = 0.1\nlearning-rate = 0.1')


def test_paths_are_relative_to_the_jobs_file(read, tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", "/somewhere")
    monkeypatch.chdir("/")
    (job,) = read('[[job]]\nbackbone = "resnet_v1_50"\ndata-dir = "../cifar"\ncheckpoint = "~/x.ckpt"')
    assert job.config.data_dir == str(tmp_path.parent / "cifar")
    assert job.config.checkpoint == "/somewhere/x.ckpt"
    assert {"data_dir", "checkpoint"} <= set(PATHS)
    jobs = read(
        '[defaults]\nbackbone = "resnet_v1_50"\n[matrix]\nclass_weights = ["balanced", "weights.csv", {a = 1, b = 2.5}]'
    )
    assert [one.config.class_weights for one in jobs] == [
        *("balanced", str(tmp_path / "weights.csv"), {"a": 1, "b": 2.5})
    ]
    assert [one.name for one in jobs[:2]] == ["class_weights_balanced", "class_weights_weights.csv"]


def test_a_backbone_that_is_a_file_is_looked_for_beside_the_jobs_file(read, tmp_path, monkeypatch):
    monkeypatch.chdir("/")
    for name in ("own.h5", "resnet_v1_50"):
        (tmp_path / name).touch()
    names_ = [
        "own.h5",
        "./old/model.keras",
        "hub:./module",
        "resnet_v1_50",
        "hub:https://tfhub.dev/a/b/1",
        "nowhere.h5",
        "kerashub:resnet_v1_50",
        "kerashub:resnet_50_imagenet",
    ]
    found = read(f"[matrix]\nbackbone = {names_}")
    assert [job.config.backbone for job in found] == [
        *(str(tmp_path / "own.h5"), str(tmp_path / "old" / "model.keras"), f"hub:{tmp_path / 'module'}"),
        *("resnet_v1_50", "hub:https://tfhub.dev/a/b/1", "nowhere.h5"),
        *(f"kerashub:{tmp_path / 'resnet_v1_50'}", "kerashub:resnet_50_imagenet"),  # a prefix names no catalogue row
    ]
    assert [job.name for job in found[:4]] == ["own.h5", "old", "module", "resnet_v1_50"]
    assert found[7].name == "kerashub_resnet_50_imagenet"


def test_seeds_repeat_every_job_and_leave_the_first_its_name(read):
    text = '[defaults]\nbackbone = "resnet_v1_50"\nseed = 7\n[matrix]\nepochs = [1, 2]'
    once, thrice = read(text), read(text, seeds=3)
    assert [(job.name, job.group, job.config.seed) for job in thrice] == [
        *(("epochs_1", "epochs_1", 7), ("epochs_1-seed_8", "epochs_1", 8), ("epochs_1-seed_9", "epochs_1", 9)),
        *(("epochs_2", "epochs_2", 7), ("epochs_2-seed_8", "epochs_2", 8), ("epochs_2-seed_9", "epochs_2", 9)),
    ]
    assert {job.name: job.config for job in once}.items() <= {job.name: job.config for job in thrice}.items()
    assert len(read(text.replace("seed = 7", "seeds = 2"))) == 4


def test_a_name_does_not_depend_on_the_other_jobs(read):
    few = read('[defaults]\nbackbone = "resnet_v1_50"\n[matrix]\nepochs = [1, 2]')
    more = read('[defaults]\nbackbone = "resnet_v1_50"\n[matrix]\nepochs = [5, 2, 1]\n[[job]]\ndropout = 0.5')
    assert {job.name: job.config for job in few}.items() <= {job.name: job.config for job in more}.items()


@pytest.mark.parametrize(
    ("name", "safe"),
    [
        ("../../etc/passwd", "etc_passwd"),
        ("a/b\\c", "a_b_c"),
        ("one\ntwo\x00\x1b[31m", "one_two_31m"),
        ("..", None),
        ("/", None),
        ("", None),
        (".hidden", "hidden"),
        ("-rf", "rf"),
        ("größe α", "groe"),
        ("x" * 300, None),
    ],
)
def test_names_are_safe_in_any_file_system(name, safe):
    if name.startswith("x"):
        assert len(safe_name(name, "here")) <= 100
    elif safe is None:
        with pytest.raises(WrongUse, match="is not valid: expected text with letters or digits"):
            safe_name(name, "here")
    else:
        assert safe_name(name, "here") == safe


def test_settings_that_differ_in_unsafe_characters_only_get_names_of_their_own(read):
    found = read('[defaults]\nbackbone = "resnet_v1_50"\n[matrix]\nfreeze = [["a/b"], ["a b"]]')
    assert found[0].name == "freeze_a_b"
    assert found[1].name.startswith("freeze_a_b-")
    long = read(f'[defaults]\nbackbone = "resnet_v1_50"\n[matrix]\nfreeze = [["{"x" * 200}y"], ["{"x" * 200}z"]]')
    assert len({job.name for job in long}) == 2
    assert all(len(job.name) < 110 for job in long)


def test_only(read):
    found = read(GRID)
    assert [job.index for job in select_jobs(found, ("7", "keras-resnet50-freeze_all-bn_decay_auto"))] == [5, 7]
    assert select_jobs(found, ()) == found
    with pytest.raises(WrongUse, match=r"'9' is not a job of the file: expected a number from 1 to 8"):
        select_jobs(found, ("9",))
    with pytest.raises(WrongUse, match="did you mean inception_v3-freeze_all-bn_decay_auto"):
        select_jobs(found, ("inception_v3-freeze_all-bn_decay_aut",))


def test_many_jobs_must_be_meant(read):
    text = '[defaults]\nbackbone = "resnet_v1_50"\n[matrix]\nepochs = [1, 2, 3]\nbatch_size = [8, 16, 32, 64]'
    assert len(read(text, seeds=8)) == 96
    with pytest.raises(WrongUse, match=r"108 jobs, more than 100: if you mean it, give --yes-really 108$"):
        read(text, seeds=9)
    with pytest.raises(WrongUse, match=r"--yes-really 108 \(not 107\)"):
        read(text, seeds=9, really=107)
    assert len(read(text, seeds=9, really=108)) == 108


def test_a_matrix_without_end_is_refused_before_it_is_built(read):
    numbers = str(list(range(1, 1001)))
    with pytest.raises(WrongUse, match="asks for 1,000,000,000,000 jobs: expected at most 100,000"):
        read(f"[matrix]\nepochs = {numbers}\nseed = {numbers}\nexamples = {numbers}\nhidden = {numbers}")


RESNET = '[defaults]\nbackbone = "resnet_v1_50"\n'
BAD = [
    ("", "asks for no job", "[matrix]"),
    ("[defaults\n", "is not TOML", "line 1"),
    ("epochs = 3", "'epochs' is a setting", "below [defaults]"),
    ("[matrx]\nepochs = [1]", "unknown key 'matrx'", "did you mean 'matrix'?"),
    ("[something]\nx = 1", "unknown key 'something'", "expected [defaults], [matrix] and [[job]]"),
    ("[[job]]\nepochs = 3", "job epochs_3 of ", "names no backbone", "[defaults]"),
    ("[defaults]\nepoch = 3", "unknown key 'epoch' in [defaults] of ", "did you mean 'epochs'?"),
    ("[matrix]\nlerning-rate = [1]", "unknown key 'lerning-rate' in [matrix]", "did you mean 'learning_rate'?"),
    ("[matrix]\nlerning-rate = 1", "unknown key 'lerning-rate' in [matrix]", "did you mean 'learning_rate'?"),
    ("[matrix]\nepochs = 3", "epochs in [matrix]", "is 3", "expected a list"),
    ("[matrix]\nepochs = []", "epochs in [matrix]", "expected a list"),
    ("[matrix]\nepochs = [1, 2, 1]", "epochs in [matrix]", "has 1 twice"),
    ("[matrix]\nepochs = [1]\n[matrix.batch-size]\nx = 1", "batch-size in [matrix]", "expected"),
    ('[matrix]\nfreeze = ["*", "block1"]', "freeze in [matrix]", "is a list itself", '[["*", "block1"], []]'),
    ("[matrix]\nepochs = [1, 'two']", "--epochs 'two' in [matrix] of ", "a whole number"),
    ("[matrix]\nbn-decay = [2]", "[matrix] of ", "--bn-decay 2 in [matrix] of ", "inside (0, 1)"),
    ("[matrix]\nbn-decay = [0.9]\nbn_decay = [0.8]", "'bn_decay' comes twice in [matrix]"),
    ("[matrix]\nepochs = [1]\nexclude = 3", "exclude in [matrix]", "is 3", "a list of tables"),
    ("[matrix]\nepochs = [1]\nexclude = [{}]", "exclude in [matrix]", "a list of tables"),
    ("[matrix]\nepochs = [1]\nexclude = [{epoch = 1}]", "unknown key 'epoch' in exclude", "did you mean 'epochs'?"),
    ("[matrix]\nepochs = [1]\nexclude = [{seed = 1}]", "names 'seed', which is not crossed", "epochs"),
    ("[matrix]\nepochs = [1]\nexclude = [{epochs = 2}]", "{'epochs': 2} matches no combination"),
    (RESNET + "[matrix]\nepochs = [1]\nexclude = [{epochs = 1}]", "asks for no job", "fewer 'exclude'"),
    ("[matrix]\nseed = [0, 1]\n[defaults]\nseeds = 2", "'seed' is in [matrix]", "leave one out"),
    ("[defaults]\nseeds = 0", "seeds in [defaults] of ", "is 0", "1 to 1000"),
    ("[defaults]\nseeds = true", "seeds in [defaults] of ", "is True"),
    ("defaults = 3", "[defaults]", "is 3", "expected a table"),
    ("job = 3", "'job'", "[[job]], double brackets"),
    ('[job]\nbackbone = "resnet_v1_50"', "'job'", "[[job]], double brackets"),
    (RESNET + "[[job]]\nname = 3", "name 3 in [[job]] 1", "letters or digits"),
    (RESNET + '[[job]]\nname = "a"\nepochs = 1\n[[job]]\nname = "A"', "jobs 1 and 2 are both called 'A'"),
    (RESNET + '[[job]]\nname = "a/b"\n[[job]]\nname = "a b"', "jobs 1 and 2 are both called 'a_b'", "another 'name'"),
    (RESNET + "[[job]]\nepochs = 1\n[[job]]\nepochs = 1", "jobs 1 and 2 are both called 'epochs_1'"),
    (RESNET + '[[job]]\nepochs = 0\nname = "x"', "--epochs 0 in [[job]] 1 (x) of ", "a whole number from 1"),
    (RESNET + "[[job]]\nfreeze = 'block1'", "--freeze 'block1' in [[job]] 1 of ", "a list of PATTERN"),
    (RESNET + "[[job]]\nlearning_rate = nan", "--learning-rate nan", "expected a number"),
    (RESNET + "[[job]]\nepochs = 2026-01-01", "--epochs datetime.date(2026, 1, 1)", "a whole number"),
    (RESNET + "[[job]]\nfrom-scratch = true\ncheckpoint = 'x'", "--from-scratch", "contradict"),
    (RESNET + "from-scratch = true\n[matrix]\ncheckpoint = ['x']", "job checkpoint_x of ", "contradict"),
]


@pytest.mark.parametrize(("text", "words"), [(text, words) for text, *words in BAD], ids=[row[0] for row in BAD])
def test_one_message_that_names_the_place(text, words, read, tmp_path):
    with pytest.raises(WrongUse) as refused:
        read(text)
    for word in (str(tmp_path / "night.toml"), *words):
        assert word in str(refused.value)


def test_no_such_file(tmp_path):
    with pytest.raises(FinetuneError, match=r"nowhere.toml is missing"):
        read_jobs(tmp_path / "nowhere.toml")
    with pytest.raises(FinetuneError, match="is a directory"):
        read_jobs(tmp_path)
    (tmp_path / "binary").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(WrongUse, match="is not TOML"):
        read_jobs(tmp_path / "binary")
