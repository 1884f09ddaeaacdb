"""Manipulate by Seeing: its losses in closed form, its planners on a world that is known, a run from data to moves."""

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import nn

from policies.manipulate_by_seeing import ManipulateBySeeing, recorded_moves
from policies.manipulate_by_seeing_model import CEMConfig, Dynamics, ManipulateBySeeingConfig, ScratchEyes, SeeingModel
from policies.moves import Moves
from policies.policy import load_policy
from policies.train import TrainConfig, run, training_windows
from vla.config import build, load
from vla.data.lerobot import open_dataset
from vla.errors import UnderstudyError
from vla.types import ActionSpec, Gripper, Observation, Task

GIVEN = ["policy=manipulate_by_seeing", "preset=tiny", "policy.cameras=[side]"]


def config_of(*overrides):
    plain = load(TrainConfig, "train", [*GIVEN, "data=.", *overrides]).policy
    return build(ManipulateBySeeingConfig, {key: value for key, value in plain.items() if key != "name"})


def network(*overrides, count=12, numbers=3):
    config = config_of(*overrides)
    torch.manual_seed(0)
    candidates = nn.functional.normalize(torch.randn(count, numbers), dim=-1)

    def eyes():
        made = ScratchEyes(config.encoder)
        return made, made.tokens

    return SeeingModel(config, camera="side", candidates=candidates, gripper=True, make_eyes=eyes)


def batch_of(model, count=6):
    size, random = model.config.image_size, torch.Generator().manual_seed(1)

    def pictures(*lead):
        return torch.randint(0, 256, (*lead, size, size, 3), dtype=torch.uint8, generator=random)

    return {
        "image.side": pictures(count),
        "next.image.side": pictures(count, 1),
        "goal.image.side": pictures(count, 1),
        "move": nn.functional.normalize(torch.randn(count, 3, generator=random), dim=-1),
        "moved": torch.ones(count, dtype=torch.bool),
        "next.mask": torch.ones(count, 1, dtype=torch.bool),
        "closed": torch.arange(count).remainder(2).float(),
    }


def test_states_are_of_unit_length_and_scores_are_cosines():
    model = network()
    states = model.state(batch_of(model)["image.side"])
    torch.testing.assert_close(states.norm(dim=1), torch.ones(6))
    scores = model.scores(states, states, model.candidates)
    assert scores.shape == (6, 12)
    assert scores.abs().max() <= 1 + 1e-5


def test_many_moves_from_one_state_are_as_each_by_itself():
    dynamics = Dynamics(8, 16, 3)
    states, moves = torch.randn(4, 8), torch.randn(5, 3)
    together = dynamics(states[:, None], moves)
    for number, move in enumerate(moves):
        torch.testing.assert_close(together[:, number], dynamics(states, move.expand(4, 3)))


def test_a_model_that_tells_no_moves_apart_pays_log_m():
    model = network()
    nn.init.zeros_(model.dynamics.of_move.weight)
    losses = model.losses(batch_of(model))
    assert losses["spatial"].item() == pytest.approx(math.log(12), abs=1e-4)


def test_without_a_temperature_the_loss_has_the_papers_floor():
    """The right move leads to the goal, all others to its opposite: log(1 + (M - 1) e^-2), 4.9 of 1000."""
    model = network(count=1000)
    batch = batch_of(model, count=1)
    goal = model.state(batch["goal.image.side"][:, 0])
    right = torch.cdist(batch["move"], model.candidates).argmin(1)

    class Knows(nn.Module):
        def forward(self, state, move):
            sign = torch.full((len(model.candidates), 1), -1.0)
            sign[right] = 1
            return sign * goal if move.shape[0] == len(model.candidates) else goal.expand_as(state)

    model.dynamics = Knows()
    assert model.losses(batch)["spatial"].item() == pytest.approx(math.log(1 + 999 * math.exp(-2)), abs=1e-3)


def test_the_dynamics_loss_is_the_mean_square_of_what_was_missed():
    model = network()
    batch = batch_of(model)
    states, after = model.state(batch["image.side"]), model.state(batch["next.image.side"][:, 0])
    wanted = (model.dynamics(states, batch["move"]) - after).square().mean()
    torch.testing.assert_close(model.losses(batch)["dynamics"], wanted)


def test_short_moves_are_not_learned_from_but_the_gripper_is():
    model = network()
    batch = batch_of(model)
    batch["moved"] = torch.tensor([True, False, True, False, False, True])
    before = model.losses(batch)
    batch["move"] = torch.where(batch["moved"][:, None], batch["move"], torch.randn(6, 3))
    after = model.losses(batch)
    torch.testing.assert_close(before, after)
    batch["next.mask"] = torch.zeros(6, 1, dtype=torch.bool)
    nothing = model.losses(batch)
    assert nothing["spatial"] == nothing["dynamics"] == 0
    assert nothing["gripper"] > 0


def test_pictures_vary_in_training_only_each_by_itself():
    model = network("policy.augment=true")
    batch = batch_of(model)
    batch["image.side"][:] = batch["image.side"][0]
    looked = []
    model.phi.register_forward_pre_hook(lambda _, pictures: looked.append(pictures[0]))
    for training in (True, False):
        model.train(training).losses(batch)
    varied, plain = looked
    assert varied.shape == plain.shape
    assert varied.dtype == plain.dtype == torch.uint8
    assert torch.equal(plain[:6], batch["image.side"])
    assert len({bytes(picture.numpy()) for picture in varied[:6]}) == 6
    assert (varied[:6].float() - plain[:6].float()).abs().mean() < 120
    assert network().vary is None


@pytest.mark.parametrize("learns", ["distance", "cloning"])
def test_every_weight_learns(learns):
    model = network(f"policy.learns={learns}")
    model(batch_of(model)).backward()
    assert [name for name, weight in model.named_parameters() if weight.grad is None] == []


def test_a_cloner_that_is_right_pays_nothing():
    model = network("policy.learns=cloning")
    move = torch.tensor([[0.0, 0.6, 0.8]])
    model.says = nn.Sequential(nn.Linear(32, 3))
    nn.init.zeros_(model.says[0].weight)
    model.says[0].bias.data = move[0]
    states = torch.randn(1, 16)
    assert model._cloned(states, states, move).item() == pytest.approx(0, abs=1e-5)
    assert model._cloned(states, states, -move).item() == pytest.approx(4 / 3 + 2, abs=1e-4)


def test_a_cloner_that_turns_the_other_way_pays_as_one_that_goes_there():
    model = network("policy.learns=cloning", "policy.rotations=true", "policy.directions=false", numbers=12)
    kind = Moves(ActionSpec("ee_delta", tuple("xyzuvw"), (-1.0,) * 6, (1.0,) * 6), rotations=True)
    right, left = (torch.from_numpy(kind.seen(np.array([[0, 0, 0, 0, 0, turn]]), 1.0)) for turn in (0.01, -0.01))
    model.says = nn.Sequential(nn.Linear(32, 12))
    nn.init.zeros_(model.says[0].weight)
    model.says[0].bias.data = right[0]
    states = torch.randn(1, 16)
    assert model._cloned(states, states, right).item() == pytest.approx(0, abs=1e-4)
    assert model._cloned(states, states, left).item() == pytest.approx(2, abs=0.01)


class Flat(nn.Module):
    """A world that is known: the state is a place on a line of the circle, moves turn it by their first entry."""

    def forward(self, state, move):
        angle = torch.atan2(state[..., 1], state[..., 0]) + 0.3 * move[..., 0]
        return torch.stack([angle.cos(), angle.sin()], dim=-1)


def test_both_planners_go_the_shorter_way_in_a_known_world():
    model = network()
    model.dynamics, model.candidates = Flat(), torch.tensor([[1.0, 0, 0], [-1.0, 0, 0], [0.1, 0, 0]])
    here, goal = torch.tensor([[1.0, 0.0]]), torch.tensor([[math.cos(0.9), math.sin(0.9)]])
    random = torch.Generator().manual_seed(0)
    assert model.choose(here, goal, random)[0, 0] == 1
    assert model.choose(here, goal * torch.tensor([1.0, -1.0]), random)[0, 0] == -1
    model.config = replace(model.config, planner="cem", cem=CEMConfig(moves=3, samples=64, elites=8, rounds=3))
    assert model.choose(here, goal, random)[0, 0] == 1
    assert model.choose(here, goal * torch.tensor([1.0, -1.0]), random)[0, 0] == -1


def test_the_mean_of_the_best_moves_is_made():
    model = network("policy.best=2")
    model.dynamics, model.candidates = Flat(), torch.tensor([[1.0, 0, 0], [-1.0, 0, 0], [0.5, 0.2, 0]])
    here, goal = torch.tensor([[1.0, 0.0]]), torch.tensor([[math.cos(0.9), math.sin(0.9)]])
    torch.testing.assert_close(model.choose(here, goal, torch.Generator()), torch.tensor([[0.75, 0.1, 0]]))


def test_looking_ahead_is_near_the_goal_all_the_way():
    """The goal is one move away; of there, back and there again only that order is near it all the way."""
    model = network("policy.planner=cem", "policy.cem.moves=3", "policy.cem.samples=256", "policy.cem.elites=8")
    model.dynamics, model.candidates = Flat(), torch.tensor([[1.0, 0, 0], [-1.0, 0, 0]])
    here, goal = torch.tensor([[1.0, 0.0]]), torch.tensor([[math.cos(0.3), math.sin(0.3)]])
    for seed in range(5):
        assert model.choose(here, goal, torch.Generator().manual_seed(seed))[0, 0] == 1


def test_looking_ahead_does_not_overshoot():
    """The goal is three short moves away: long ones lead past it, and CEM sees that."""
    model = network("policy.planner=cem", "policy.cem.moves=3", "policy.cem.samples=256", "policy.cem.elites=8")
    model.dynamics, model.candidates = Flat(), torch.tensor([[1.0, 0, 0], [0.1, 0, 0]])
    here, goal = torch.tensor([[1.0, 0.0]]), torch.tensor([[math.cos(0.09), math.sin(0.09)]])
    assert model.choose(here, goal, torch.Generator().manual_seed(0))[0, 0] == pytest.approx(0.1)


def test_displacements_are_found_beside_the_gripper_and_other_actions_refused():
    names = ("gripper", "dx", "dy", "dz", "turn")
    spec = ActionSpec("ee_delta", names, (-1.0,) * 5, (1.0,) * 5, gripper=Gripper(0, open=1, closed=0))
    assert Moves(spec).entries == [1, 2, 3]
    with pytest.raises(UnderstudyError, match="ee_delta"):
        Moves(replace(spec, kind="joint_position"))
    with pytest.raises(UnderstudyError, match="6 entries"):
        Moves(spec, rotations=True)


@pytest.fixture(scope="module")
def grabbed(tmp_path_factory):
    """A few recordings of a person with a grabber."""
    from sim.collect import CollectConfig
    from sim.collect import run as collect

    out = tmp_path_factory.mktemp("grabber") / "data"
    suite = {"image_size": 32, "cameras": ["wrist"]}
    tasks = ("tabletop/touch-red-cube", "tabletop/lift-red-cube")
    return collect(CollectConfig(tasks=tasks, episodes=2, out=out, suite=suite, by="grabber", workers=0))


def given(data, out, *overrides):
    return load(TrainConfig, "train", [*GIVEN[:2], f"data={data}", f"out={out}", *overrides])


def test_the_move_of_a_sample_is_the_way_of_the_hand_and_its_goal_comes_later(grabbed):
    dataset = open_dataset(grabbed)
    config = config_of("policy.directions=false", "policy.cameras=[wrist]", "policy.stride=3")
    windows = training_windows(dataset, config, holdout=0)
    policy = ManipulateBySeeing.create(config, dataset.spec, windows)
    indices = windows.samples[[0, 7, len(windows) - 1]]
    batch = policy.training_batch(windows.gather(indices))
    for index, move in zip(indices, batch["move"], strict=True):
        stop = min(index + 3, windows.ends[index])
        way = windows.actions[index:stop, :3].sum(0) / float(policy.model.length)
        np.testing.assert_allclose(move.numpy(), way, atol=1e-5)
    assert not batch["moved"][-1]
    for seed in range(20):
        later = policy.later(windows, indices, np.random.default_rng(seed))
        frames = later["goal"].frames[:, 0]
        assert (frames >= np.minimum(indices + 3, windows.ends[indices] - 1)).all()
        assert (frames < windows.ends[indices]).all()
    moves = recorded_moves(config, windows)
    assert (np.linalg.norm(moves, axis=1) > config.least).all()
    assert policy.model.candidates.shape == (config.candidates, 3)


def test_training_goes_on_exactly_and_the_checkpoint_moves_towards_a_goal(grabbed, tmp_path):
    steady = "trainer.schedule=constant"
    run(given(grabbed, tmp_path / "whole", "trainer.steps=6", steady))
    run(given(grabbed, tmp_path / "parts", "trainer.steps=3", steady))
    settings = given(grabbed, tmp_path / "parts", "trainer.steps=6", steady)
    settings.resume = True
    run(settings)
    policy, other = load_policy(tmp_path / "whole"), load_policy(tmp_path / "parts")
    for name, value in policy.model.state_dict().items():
        torch.testing.assert_close(value, other.model.state_dict()[name], msg=name)
    episode = open_dataset(grabbed).episode(0)
    frames = episode.images["wrist"]()
    seen = Observation({"wrist": frames[0]}, episode.proprio[0], 0)
    with pytest.raises(UnderstudyError, match="goal"):
        policy.reset(Task("touch it"))
    policy.reset(Task("", goal=frames[-1]))
    chunk = policy.infer(seen).actions
    way = chunk[:, :3].sum(0)
    assert chunk.shape == (policy.config.stride, 4)
    assert set(chunk[:, 3]) <= {0.0, 1.0}
    assert np.linalg.norm(way) == pytest.approx(float(policy.model.length), rel=1e-4)
    assert policy.distances(frames, frames[-1])[-1] == pytest.approx(0, abs=1e-5)


def test_a_gripper_that_changes_is_waited_for(grabbed, tmp_path):
    run(given(grabbed, tmp_path / "made", "trainer.steps=1"))
    policy = load_policy(tmp_path / "made")
    policy.reset(Task("", goal=np.full((32, 32, 3), 90, np.uint8)))
    moves = np.ones((1, 3), np.float32)
    for closed, still in ((False, False), (False, False), (True, True), (True, False), (False, True)):
        rows = policy._chunks([policy], moves, np.array([closed]))[0]
        assert (rows[:, :3] == 0).all() == still
        assert (rows[:, 3] == (0.0 if closed else 1.0)).all()


def test_what_it_cannot_learn_from_is_refused(grabbed, tmp_path):
    with pytest.raises(UnderstudyError, match="directions"):
        run(given(grabbed, tmp_path / "c", "policy.reach=0.02", "policy.directions=false"))
    with pytest.raises(UnderstudyError, match="best=51"):
        run(given(grabbed, tmp_path / "e", "policy.best=51"))
    with pytest.raises(UnderstudyError, match="elites"):
        run(given(grabbed, tmp_path / "d", "policy.cem.elites=1"))
    with pytest.raises(UnderstudyError, match=r"policy\.least"):
        run(given(grabbed, tmp_path / "a", "policy.least=5"))
    with pytest.raises(UnderstudyError, match="learns nothing from videos"):
        run(given(grabbed, tmp_path / "b", f"videos=[{grabbed}]"))
