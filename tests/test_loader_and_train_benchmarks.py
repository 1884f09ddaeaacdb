"""The benchmarks of loading and of training compare like with like; nothing is timed here."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch

from vla.bench import Times, script
from vla.errors import UnderstudyError

loader, train = script("loader"), script("train")


def result(ours=1.0, none=8.0, two=5.0):
    times = Times({"lerobot, 0 workers": [none] * 3, "lerobot, 2 workers": [two] * 3, "ours": [ours] * 3}, "ours")
    return loader.Result(loader.HEADLINE, times, decode_s=6.0, samples=loader.THEIR_TURN * loader.BATCH)


def test_a_ratio_counts_samples_not_turns_and_takes_the_faster_peer():
    assert result().peer == "lerobot, 2 workers"
    assert result(two=9.0).peer == "lerobot, 0 workers"
    assert result().ratio("ours") == pytest.approx(5 * loader.OUR_TURN / loader.THEIR_TURN)
    assert result().ratio("ours") == pytest.approx(result().rate("ours") / result().rate(result().peer))


def test_after_the_break_even_both_have_taken_the_same_time():
    made = result()
    epoch = {name: made.samples / made.rate(name) for name in ("ours", made.peer)}
    assert made.decode_s + made.break_even * epoch["ours"] == pytest.approx(made.break_even * epoch[made.peer])


class Peer:
    """LeRobot's side of the windows, as it would give stored images."""

    meta = SimpleNamespace(video_keys=[])

    def __init__(self, windows):
        self.windows = windows

    def __len__(self):
        return len(self.windows)

    def __getitem__(self, index):
        batch = self.windows.gather(np.array([index]))
        images = {f"observation.images.{name}": image[0] for name, image in batch.images.items()}
        chw = {key: torch.from_numpy(image).permute(2, 0, 1).float() / 255 for key, image in images.items()}
        return {"action": torch.from_numpy(batch.actions[0]), **chw}


def test_loaders_that_give_different_samples_are_not_compared():
    _, windows = train.recording()
    peer = Peer(windows)
    loader.refuse_different(windows, peer)
    peer.windows = train.recording()[1]
    peer.windows.actions[-1] += 1
    with pytest.raises(UnderstudyError, match="sample 35 differs"):
        loader.refuse_different(windows, peer)
    peer.windows = train.recording()[1]
    peer.windows.frames["wrist"][0, 5, 6] ^= 255
    with pytest.raises(UnderstudyError, match="sample 0 differs"):
        loader.refuse_different(windows, peer)


@pytest.mark.parametrize("target", [12_000_000, 18_600_000, 28_000_000])
@pytest.mark.parametrize(("head", "share"), [(True, 0.2), (False, 0.0)])
def test_ours_is_widened_to_any_number_of_parameters(target, head, share):
    config, _ = train.preset()
    with torch.device("meta"):
        model = train.cogact(train.matched(config, target, head=head)).model
    assert train.parameters(model) == pytest.approx(target, rel=0.05)
    assert share < train.parameters(model.head) / target < share + 0.15


@pytest.mark.parametrize("name", ["act", "diffusion"])
def test_everybody_is_trained_on_the_same_samples(name):
    given, theirs = train.first_samples(), train.lerobot_batch(name, torch.device("cpu"))
    assert theirs["action"].shape == (train.BATCH, train.HORIZON, 4)
    assert not theirs["action_is_pad"].any()
    np.testing.assert_array_equal(theirs["action"].numpy(), given.actions)
    np.testing.assert_array_equal(theirs["observation.state"].reshape(train.BATCH, -1).numpy(), given.proprio)
    for camera, image in given.images.items():
        pixels = theirs[f"observation.images.{camera}"].permute(0, 2, 3, 1).numpy()
        np.testing.assert_allclose((pixels + 1) * 127.5, image, atol=1e-3)
