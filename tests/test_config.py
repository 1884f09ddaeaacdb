"""Settings: what fits the dataclass is taken, what does not is told with its key and the nearest allowed one."""

from dataclasses import dataclass, field
from importlib import import_module
from pathlib import Path
from typing import Any, Literal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vla.config import CONFIGS, build, from_yaml, help_text, load, to_yaml, wants_help
from vla.errors import UnderstudyError

type Precision = Literal["bf16", "fp32"]


@dataclass(frozen=True)
class Schedule:
    steps: int = 100
    """Optimizer steps."""

    lr: float = 1e-4
    """Peak learning rate; the warm-up leads to it,
    and the cosine away from it."""

    precision: Precision = "fp32"


@dataclass(frozen=True)
class Settings:
    data: Path
    """The recordings."""

    policy: dict[str, Any] = field(default_factory=dict)
    train: Schedule = Schedule()
    tasks: tuple[str, ...] = ()
    size: tuple[int, int] = (64, 64)
    limit: int | None = None
    label: str = "run"
    resume: bool = False
    names: dict[str, int] = field(default_factory=dict)

    def __post_init__(self):
        if self.limit is not None and self.limit < 0:
            raise ValueError(f"limit must not be negative, got {self.limit}")


@dataclass(frozen=True)
class Judge:
    policy: Path
    train: Schedule = Schedule()


@pytest.fixture(scope="module")
def configs(tmp_path_factory):
    root = tmp_path_factory.mktemp("configs")
    files = {
        "train.yaml": "defaults:\n  - policy: small\n  - _self_\ntrain: {lr: 1e-3}\n",
        "judge.yaml": "train: {steps: 7}\n",
        "policy/small.yaml": "name: small\nwidth: 64\n",
        "policy/large.yaml": "name: large\nwidth: 1024\nhead: {depth: 24}\n",
        "preset/cpu.yaml": "# @package _global_\ntrain: {steps: 10}\n",
        "preset/paper.yaml": "# @package _global_\ntrain: {steps: 135000}\npolicy: {width: 768}\n",
        "torn.yaml": "train: {steps: [1,\n",
        "calls.yaml": "label: ${oc.env:HOME}\n",
        "refers.yaml": "data: x\ntrain: {steps: 5}\nlimit: ${train.steps}\n",
        "typo.yaml": "data: x\ntrain: {stepps: 5}\n",
    }
    for name, text in files.items():
        (root / name).parent.mkdir(exist_ok=True)
        (root / name).write_text(text)
    return root


@pytest.fixture
def compose(configs):
    def compose(*overrides, name="train", schema=Settings):
        return load(schema, name, overrides, config_dir=configs)

    return compose


def test_yaml_overrides_the_dataclass_and_the_command_line_overrides_both(compose):
    plain = compose("data=recordings")
    assert plain == Settings(Path("recordings"), {"name": "small", "width": 64}, Schedule(lr=1e-3))
    assert compose("data=recordings", "train.lr=2", "label=x").train.lr == 2.0


def test_a_preset_overrides_the_file_and_a_setting_overrides_the_preset_in_any_order(compose):
    settings = compose("policy.width=3", "preset=paper", "policy=large", "data=x", "train.steps=2")
    assert settings.policy == {"name": "large", "width": 3, "head": {"depth": 24}}
    assert settings.train == Schedule(steps=2, lr=1e-3)
    assert compose("preset=paper", "data=x").policy["width"] == 768


def test_a_setting_may_be_called_like_a_folder_of_configs(compose):
    assert compose("policy=outputs/train", name="judge", schema=Judge) == Judge(Path("outputs/train"), Schedule(7))


def test_values_may_refer_to_each_other(compose):
    assert compose(name="refers").limit == 5


@pytest.mark.parametrize(
    ("override", "key", "value"),
    [
        ("tasks=[a,b/c]", "tasks", ("a", "b/c")),
        ("tasks=a", "tasks", ("a",)),
        ("size=[3,4]", "size", (3, 4)),
        ("limit=3", "limit", 3),
        ("limit=null", "limit", None),
        ("limit=1e3", "limit", 1000),
        ("label=7", "label", "7"),
        ("resume=true", "resume", True),
        (
            "policy.anything.goes=[1,{a: b}]",
            "policy",
            {"name": "small", "width": 64, "anything": {"goes": [1, {"a": "b"}]}},
        ),
        ("names={a: 1}", "names", {"a": 1}),
    ],
)
def test_values_become_what_their_field_says(compose, override, key, value):
    got = getattr(compose("data=x", override), key)
    assert got == value
    assert type(got) is type(value)


@pytest.mark.parametrize(
    "path", ["a=b/c=d", "with space/(1)", "é/ü", "a#b", "it's", "a&b;c", "C:\\x\\", "50%", "-x", "a'b\\'c", "x{y", "*?"]
)
def test_paths_with_special_characters_are_taken_as_they_are(compose, path):
    assert compose(f"data={path}").data == Path(path)


def test_home_is_expanded(compose):
    assert compose("data=~/x").data == Path.home() / "x"


@pytest.mark.parametrize(
    ("overrides", "told"),
    [
        (["dta=x"], "unknown key 'dta'; did you mean 'data'?"),
        (["polcy=x"], "unknown key 'polcy'; did you mean 'policy'?"),
        (["data=x", "prset=cpu"], "unknown key 'prset'; did you mean 'preset'?"),
        (["data=x", "train.stpes=3"], "unknown key 'train.stpes'; did you mean 'train.steps'?"),
        (["data=x", "steps=3"], "unknown key 'steps'; did you mean 'train.steps'?"),
        (["data=x", "preset=cpuu"], "unknown preset 'cpuu'; did you mean 'cpu'?"),
        (["data=x", "policy=huge-one"], "unknown policy 'huge-one'; allowed: large, small"),
        (["data=x", "policy=null"], "unknown policy 'None'; allowed: large, small"),
        (["data=x", "train.precision=fp16"], "unknown value for train.precision: 'fp16'; did you mean 'bf16'?"),
        (["data=x", "train.steps=many"], "train.steps must be int, got 'many'"),
        (["data=x", "train.steps=1.5"], "train.steps must be int, got 1.5"),
        (["data=x", "train.steps=inf"], "train.steps must be int, got inf"),
        (["data=x", "train.steps=true"], "train.steps must be int, got True"),
        (["data=x", "train.lr=fast"], "train.lr must be float, got 'fast'"),
        (["data=x", "resume=1"], "resume must be true | false, got 1"),
        (["data=x", "label=true"], "label must be str, got True"),
        (["data=x", "limit=few"], "limit must be int, got 'few'"),
        (["data=x", "limit=-1"], "limit must not be negative, got -1"),
        (["data=x", "train=3"], "train must be a mapping of steps, lr, precision, got 3"),
        (["data=x", "size=[1,2,3]"], "size must be tuple[int, int], got [1, 2, 3]"),
        (["data=x", "tasks=[a,[b]]"], "tasks[1] must be str, got ['b']"),
        (["data=x", "names={a: b}"], "names.a must be int, got 'b'"),
        ([], "data (path) must be given: add data=…"),
        (["data=a,b"], "'data=a,b' is several values: write data=[…] for a list"),
        (["tasks=[a"], "cannot read 'tasks=[a': put quotes"),
        (["--steps=3"], "cannot read '--steps=3': settings are written key=value"),
        (["steps"], "cannot read 'steps': settings are written key=value"),
        (["~policy"], "cannot read '~policy'"),
        (["data=${oc.env:HOME}"], "calls a resolver"),
        (["data=${nothing}"], "'nothing' not found"),
    ],
)
def test_what_does_not_fit_is_told_with_its_key(compose, overrides, told):
    with pytest.raises(UnderstudyError) as caught:
        compose(*overrides)
    assert told in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("name", "told"),
    [
        ("torn", "torn.yaml"),
        ("calls", "calls a resolver"),
        ("typo", "unknown key 'train.stepps'; did you mean 'train.steps'?"),
        ("trian", "unknown configuration 'trian'; did you mean 'train'?"),
    ],
)
def test_a_file_that_does_not_fit_is_told(compose, name, told):
    with pytest.raises(UnderstudyError) as caught:
        compose("data=x", name=name)
    assert told in str(caught.value)
    assert "\n" not in str(caught.value)


def test_without_a_checkout_the_error_says_so(tmp_path):
    with pytest.raises(UnderstudyError, match="settings live in the checkout"):
        load(Settings, "train", [], config_dir=tmp_path / "configs")


def test_build_names_the_place_it_was_called_for():
    with pytest.raises(UnderstudyError, match=r"unknown key 'policy\.stpes'; did you mean 'policy\.steps'"):
        build(Schedule, {"stpes": 1}, where="policy")
    with pytest.raises(UnderstudyError, match="policy must be a mapping"):
        build(Schedule, [1], where="policy")


def test_a_nested_value_that_is_missing_is_named_with_its_full_key():
    @dataclass
    class Outer:
        inner: Settings

    assert build(Outer, {"inner": {"data": "x"}}).inner.data == Path("x")
    for mapping in ({}, {"inner": {}}, {"inner": {"data": "???"}}):
        with pytest.raises(UnderstudyError, match=r"^inner\.data \(path\) must be given: add inner\.data=…$"):
            build(Outer, mapping)


def test_help_shows_groups_and_every_key_with_type_value_and_meaning(configs, monkeypatch):
    monkeypatch.setenv("COLUMNS", "70")
    text = help_text(
        Settings, verb="train", about="Train a policy.", example="vla train data=x", name="train", config_dir=configs
    )
    assert text.startswith("usage: vla train ")
    assert "example:\n  vla train data=x" in text
    words = " ".join(text.split())
    for part in (
        "policy= large | small",
        "preset= cpu | paper",
        "data=… path. The recordings.",
        "policy.width=64",
        "train.lr=0.001 float. Peak learning rate; the warm-up leads to it, and the cosine away from it.",
        "train.precision=fp32 bf16 | fp32",
        "size=[64,64]",
        "limit=null int | null",
    ):
        assert part in words
    assert max(map(len, text.splitlines())) <= 70


def test_help_leaves_out_groups_that_the_verb_cannot_take(configs):
    text = help_text(Judge, verb="judge", about="Judge.", example="vla judge", name="judge", config_dir=configs)
    assert "policy= " not in text
    assert "large" not in text


@pytest.mark.parametrize(("argv", "wanted"), [(["-h"], True), (["a=1", "--help"], True), (["help=1"], False)])
def test_help_is_wanted_only_when_asked_for(argv, wanted):
    assert wants_help(argv) is wanted


PLAIN = st.text("abc ${}:#'\"\\-0123456789.\n", max_size=12).filter(lambda text: "${" not in text and text != "???")


@given(
    label=PLAIN,
    lr=st.floats(allow_nan=False, allow_infinity=False),
    steps=st.integers(-(2**62), 2**62),
    tasks=st.lists(PLAIN).map(tuple),
    limit=st.none() | st.integers(0, 9),
    policy=st.dictionaries(PLAIN.filter(bool), PLAIN | st.none() | st.booleans() | st.lists(PLAIN), max_size=3),
)
def test_yaml_round_trip(tmp_path_factory, label, lr, steps, tasks, limit, policy):
    settings = Settings(Path("x"), policy, Schedule(steps, lr), tasks, limit=limit, label=label)
    file = tmp_path_factory.mktemp("yaml") / "config.yaml"
    file.write_text(to_yaml(settings), encoding="utf-8")
    assert from_yaml(Settings, file) == settings


@pytest.mark.parametrize("text", ["a: [1,", "data: x\ntrian: {}\n", "- 1\n", "data: 1\ndata: 2\n"])
def test_a_yaml_file_that_does_not_fit_is_named(tmp_path, text):
    file = tmp_path / "config.yaml"
    file.write_text(text)
    with pytest.raises(UnderstudyError, match=r"config\.yaml"):
        from_yaml(Settings, file)
    with pytest.raises(UnderstudyError, match="there is no file"):
        from_yaml(Settings, tmp_path / "none.yaml")


@pytest.mark.parametrize(
    ("verb", "schema", "needed"),
    [
        ("train", "policies.train:TrainConfig", ["data=x"]),
        ("collect", "sim.collect:CollectConfig", []),
        ("eval", "sim.evaluate:EvalConfig", ["policy=x"]),
    ],
)
def test_our_own_configs_have_only_keys_that_their_verbs_know(verb, schema, needed):
    module, _, name = schema.partition(":")
    settings = getattr(import_module(module), name)
    load(settings, verb, needed)
    for preset in (CONFIGS / "preset").glob("*.yaml") if verb == "train" else ():
        load(settings, verb, [*needed, f"preset={preset.stem}"])
