"""Our policies in LeRobot's commands, and LeRobot's policies in ours. Importing LeRobot takes 10 s: slow."""

import json
import os
import shutil
import subprocess
import sys
from functools import partial
from pathlib import Path

import numpy as np
import pytest

from policies.cogact import CogACT
from policies.execution import ChunkExecutor
from policies.lerobot_plugin.command import adopt, main
from policies.policy import SPEC_FILE, load_policy
from vla.errors import UnderstudyError
from vla.types import Observation, Task

REPO = Path(__file__).resolve().parents[2]
OFFLINE = {"HF_HUB_OFFLINE": "1"}
KEYS = {"front": "observation.images.front", "wrist": "observation.images.wrist"}


@pytest.fixture(scope="module", autouse=True)
def _offline():
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("HF_HUB_OFFLINE", "1")
        yield


def command(name, *arguments):
    """One of LeRobot's commands in a process of its own."""
    program = [sys.executable, "-m", f"lerobot.scripts.lerobot_{name}", *arguments]
    done = subprocess.run(program, capture_output=True, text=True, check=False, env=os.environ | OFFLINE, timeout=300)
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stderr


def observation(dataset, index=0):
    episode = dataset.episode(0)
    images = {name: frames()[index] for name, frames in episode.images.items()}
    return Observation(images=images, proprio=episode.proprio[index], stamp_ns=0)


def lerobot_batch(torch, seen, instruction):
    """An observation as LeRobot's environments give it, before any processor."""
    images = {KEYS[name]: torch.from_numpy(image).permute(2, 0, 1)[None] / 255 for name, image in seen.images.items()}
    return {**images, "observation.state": torch.from_numpy(seen.proprio)[None], "task": [instruction]}


@pytest.mark.slow
def test_lerobot_trains_our_policy_and_goes_on_where_it_stopped(make_dataset, tmp_path):
    dataset = make_dataset()
    out = tmp_path / "run"
    data = ["--dataset.repo_id=local/test", f"--dataset.root={dataset.root}", "--dataset.video_backend=pyav"]
    loop = ["--num_workers=0", "--batch_size=4", "--steps=2", "--save_freq=2", "--log_freq=1", "--wandb.enable=false"]
    plugin = ["--policy.discover_packages_path=policies.lerobot_plugin", "--policy.type=understudy"]
    ours = ["--policy.recipe=cogact_flow", "--policy.preset=tiny", '--policy.overrides=["policy.pred_horizon=6"]']
    where = ["--policy.push_to_hub=false", "--policy.device=cpu", f"--output_dir={out}"]
    command("train", *plugin, *ours, *data, *loop, *where)
    first = out / "checkpoints/000002/pretrained_model"
    policy = load_policy(first)
    assert isinstance(policy, CogACT)
    assert policy.spec.pred_horizon == 6
    assert policy.config.head == "flow"
    resume = [f"--config_path={first / 'train_config.json'}", "--resume=true", "--steps=4"]
    said = command("train", "--policy.discover_packages_path=policies.lerobot_plugin", *resume)
    assert "step:3" in said
    assert "step:1 " not in said
    assert (out / "checkpoints/000004/pretrained_model" / SPEC_FILE).is_file()


@pytest.mark.slow
def test_a_checkpoint_gives_the_same_chunk_on_both_sides(make_dataset, make_policy, tmp_path):
    import torch

    dataset = make_dataset()
    policy, _ = make_policy(dataset)
    policy.save(tmp_path / "ours")
    assert main([str(tmp_path / "ours")]) == 0
    from lerobot.configs import PreTrainedConfig
    from lerobot.policies import get_policy_class, make_pre_post_processors

    config = PreTrainedConfig.from_pretrained(tmp_path / "ours")
    theirs = get_policy_class(config.type).from_pretrained(tmp_path / "ours", config=config)
    into, out_of = make_pre_post_processors(config, str(tmp_path / "ours"))
    seen, noise = observation(dataset), np.random.default_rng(0).standard_normal((1, *policy.model.head.noise_shape))
    noise = noise.astype(np.float32)
    batch = into(lerobot_batch(torch, seen, "open the drawer"))
    chunk = out_of(theirs.predict_action_chunk(batch, noise=torch.from_numpy(noise)))
    text = policy.model.eval().backbone.tokenize(["open the drawer"])
    images = {name: image[None] for name, image in seen.images.items()}
    expected = policy.chunks(images, seen.proprio[None], text, noise)
    np.testing.assert_allclose(chunk, expected, atol=1e-5)
    torch.manual_seed(0)
    due = [theirs.select_action(batch) for _ in range(policy.spec.exec_horizon + 1)]
    torch.manual_seed(0)
    theirs.reset()
    row = theirs.predict_action_chunk(batch)
    np.testing.assert_allclose(torch.stack(due[:-1], 1), row[:, : policy.spec.exec_horizon], atol=1e-6)
    theirs.save_pretrained(tmp_path / "back")
    again = load_policy(tmp_path / "back")
    np.testing.assert_allclose(again.chunks(images, seen.proprio[None], text, noise), expected, atol=1e-6)


@pytest.mark.slow
def test_the_loss_on_lerobots_batch_is_that_on_ours(make_dataset, make_policy):
    import torch
    from lerobot.configs import FeatureType, PolicyFeature

    from policies.lerobot_plugin.configuration_understudy import UnderstudyConfig
    from policies.lerobot_plugin.modeling_understudy import UnderstudyPolicy

    dataset = make_dataset()
    policy, windows = make_policy(dataset, "policy=cogact_l1")
    pictures = {key: PolicyFeature(FeatureType.VISUAL, (3, 32, 32)) for key in KEYS.values()}
    actions = {"action": PolicyFeature(FeatureType.ACTION, (3,))}
    theirs = UnderstudyPolicy(UnderstudyConfig(input_features=pictures, output_features=actions), ours=policy)
    plain = windows.gather(np.array([0, 5, 8]))  # the last chunks run beyond the end of their episode
    assert not plain.mask.all()
    raw = windows.actions[np.minimum(np.array([0, 5, 8])[:, None] + np.arange(windows.pred_horizon), 8)]
    batch = {
        **{KEYS[name]: torch.from_numpy(image).permute(0, 3, 1, 2) / 255 for name, image in plain.images.items()},
        "observation.state": torch.from_numpy(plain.proprio),
        "action": torch.from_numpy(raw),
        "action_is_pad": torch.from_numpy(~plain.mask),
        "task": plain.instructions,
    }
    loss, _ = theirs(batch)
    assert loss.item() == pytest.approx(policy.model(policy.training_batch(plain)).item(), rel=1e-5)
    loss.backward()
    assert any(p.grad is not None and p.grad.any() for p in theirs.get_optim_params())


def make_peer(dataset, kind, **settings):
    """An untrained policy of LeRobot's for the dataset, with its processors."""
    from lerobot.configs import FeatureType, PolicyFeature
    from lerobot.policies import get_policy_class, make_policy_config, make_pre_post_processors

    spec = dataset.spec
    pictures = {KEYS[c.name]: PolicyFeature(FeatureType.VISUAL, (3, c.height, c.width)) for c in spec.cameras}
    state = {"observation.state": PolicyFeature(FeatureType.STATE, (len(spec.proprio_names),))}
    config = make_policy_config(
        kind,
        input_features=pictures | state,
        output_features={"action": PolicyFeature(FeatureType.ACTION, (spec.action.dim,))},
        device="cpu",
        push_to_hub=False,
        **settings,
    )
    plain = json.loads((dataset.root / "meta/stats.json").read_text())
    import torch

    stats = {
        key: {name: torch.tensor(value, dtype=torch.float32) for name, value in plain[key].items()}
        for key in [*config.input_features, "action"]
    }
    torch.manual_seed(0)
    return get_policy_class(kind)(config).eval(), make_pre_post_processors(config, dataset_stats=stats)


ACT = {"chunk_size": 4, "n_action_steps": 2, "pretrained_backbone_weights": None, "dim_model": 32}
DIFFUSION = {"horizon": 8, "n_action_steps": 4, "pretrained_backbone_weights": None, "num_inference_steps": 2}
PEERS = {
    "act": ACT | {"n_heads": 2, "dim_feedforward": 32, "n_encoder_layers": 1, "n_vae_encoder_layers": 1},
    "diffusion": DIFFUSION
    | {"down_dims": (16, 32), "crop_shape": None, "spatial_softmax_num_keypoints": 4, "n_groups": 4},
}


@pytest.mark.slow
@pytest.mark.parametrize("kind", PEERS)
def test_a_policy_of_lerobots_acts_here_as_it_does_there(make_dataset, tmp_path, kind):
    import torch

    dataset = make_dataset(height=64, width=64)
    acts_as_there(torch, dataset, tmp_path / "peer", *make_peer(dataset, kind, **PEERS[kind]))


@pytest.mark.slow
def test_smolvla_acts_here_as_it_does_there(make_dataset, tiny_vlm, tmp_path):
    import torch

    dataset = make_dataset(height=64, width=64)
    vlm = tiny_vlm.save_tiny("smolvlm", tmp_path / "vlm")
    sizes = {"chunk_size": 6, "n_action_steps": 3, "num_steps": 2, "resize_imgs_with_padding": (56, 56)}
    small = sizes | {"num_vlm_layers": 2, "max_state_dim": 8, "max_action_dim": 8}
    acts_as_there(torch, dataset, tmp_path / "peer", *make_peer(dataset, "smolvla", vlm_model_name=str(vlm), **small))


def acts_as_there(torch, dataset, folder, policy, processors):
    """Saved, adopted and loaded, it gives the actions that it gives in LeRobot's own loop, in physical units."""
    policy.save_pretrained(folder)
    for pipeline in processors:
        pipeline.save_pretrained(folder)
    adopt(folder, dataset.root)
    peer = load_policy(folder)
    assert peer.spec.action == dataset.spec.action
    executor, seen = ChunkExecutor(peer), []
    executor.reset(Task("open the drawer"), seed=3)

    def look(index):
        seen.append(index)
        return observation(dataset, index)

    ours = [executor.act(partial(look, index))[None] for index in range(5)]
    assert seen == list(range(0, 5, peer.spec.exec_horizon))
    assert peer.spec.pred_horizon == (policy.config.n_action_steps if policy.config.n_obs_steps == 1 else 1)
    torch.manual_seed(3)
    policy.reset()
    into, out_of = processors
    with torch.inference_mode():
        seen = [lerobot_batch(torch, observation(dataset, index), "open the drawer") for index in range(5)]
        theirs = [out_of(policy.select_action(into(batch))).numpy() for batch in seen]
    assert ours[0].shape == (1, 3)
    np.testing.assert_allclose(ours, theirs, atol=1e-5)
    assert np.ptp(ours, axis=0).any()


@pytest.mark.slow
def test_the_distribution_makes_lerobot_know_us(tmp_path):
    source = tmp_path / "source"
    shutil.copytree(REPO / "sim/lerobot_plugin/distribution", source)
    pip = [sys.executable, "-m", "pip"] if shutil.which("uv") is None else ["uv", "pip"]
    place = ["--target", str(tmp_path / "site")]
    python = [] if pip[0] != "uv" else ["--python", sys.executable]
    install = [*pip, "install", *python, "--no-deps", "--no-build-isolation", *place, str(source)]
    subprocess.run(install, check=True, capture_output=True)
    code = (
        "from lerobot.utils.import_utils import register_third_party_plugins; register_third_party_plugins(); "
        "from lerobot.configs import PreTrainedConfig; from lerobot.envs import EnvConfig; "
        "assert 'understudy' in PreTrainedConfig.get_known_choices(); "
        "assert 'understudy' in EnvConfig.get_known_choices()"
    )
    found = os.environ | {"PYTHONPATH": str(tmp_path / "site")} | OFFLINE
    subprocess.run([sys.executable, "-c", code], check=True, env=found)


def test_what_neither_side_knows_is_refused(tmp_path):
    with pytest.raises(UnderstudyError, match="holds neither"):
        main([str(tmp_path)])


@pytest.mark.slow
def test_a_policy_of_lerobots_needs_its_dataset(make_dataset, tmp_path):
    (tmp_path / "config.json").write_text("{}")
    with pytest.raises(UnderstudyError, match="give --data"):
        main([str(tmp_path)])
    dataset, other = make_dataset(), make_dataset(height=64, width=48, name="other")
    policy, _ = make_peer(dataset, "act", **PEERS["act"])
    policy.save_pretrained(tmp_path / "act")
    policy.config.output_features["action"].shape = (5,)
    policy.config.save_pretrained(tmp_path / "act")
    with pytest.raises(UnderstudyError, match="5 action entries"):
        adopt(tmp_path / "act", other.root)
