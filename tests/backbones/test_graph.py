"""What a CUDA graph may hold, and that it is used rightly. Without a GPU: on tensors without values, and on tapes."""

from contextlib import nullcontext
from types import SimpleNamespace

import pytest
import torch
from torch._subclasses.fake_tensor import DataDependentOutputException, DynamicOutputShapeException, FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from policies.cogact_model import CogACTConfig, CogACTModel
from policies.hastened import Hastened
from policies.heads.diffusion import DiffusionConfig, DiffusionHead
from policies.heads.dit import DiT, DiTSize
from policies.heads.flow import FlowConfig, FlowHead
from vla.backbones.backbone import TokenGroup
from vla.backbones.graph import Graph
from vla.backbones.hub import HubVLM, Source
from vla.backbones.hub_config import HubVLMConfig
from vla.backbones.small import SmallVLM, SmallVLMConfig, build_tokenizer

LOOKS = (DataDependentOutputException, DynamicOutputShapeException, AssertionError)
INSTRUCTION = "lift it"


class NothingFromTheHost(TorchDispatchMode):
    """Refuses what a recording refuses and tensors without values allow: copies between host and device."""

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        made = func(*args, **(kwargs or {}))
        given = [leaf for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, torch.Tensor) and leaf.ndim]
        devices = {one.device.type for one in [*given, *tree_leaves(made)] if isinstance(one, torch.Tensor)}
        assert len(devices) < 2, f"{func} copies between host and device"
        return made


def on_a_gpu(make, text, **images):
    """``make()`` a backbone of tensors without values on a GPU that need not exist, and run it under the guard."""
    with FakeTensorMode(), torch.no_grad(), torch.device("cuda"):
        backbone = make().eval()
        pictures = {name: torch.zeros(1, *shape, dtype=torch.uint8) for name, shape in images.items()}
        proprio, ids = torch.zeros(1, 4), torch.zeros(text.shape, dtype=torch.long)
        with NothingFromTheHost():
            return backbone(pictures, proprio, ids).tokens


def hub(folder):
    config = HubVLMConfig(str(folder), image_size=56, random_init=True, freeze="vlm")
    return HubVLM(config, Source.read(config), cameras=["front", "wrist"], proprio_dim=4)


@pytest.mark.parametrize("family", ["smolvlm", "paligemma", "qwen2_5_vl", "qwen3_vl", "prismatic"])
def test_a_model_says_whether_a_graph_can_hold_it(family, tiny_vlm, tmp_path):
    folder = tiny_vlm.save_tiny(family, tmp_path)
    real = hub(folder)
    text, pictures = real.tokenize([INSTRUCTION]), dict.fromkeys(real.cameras, (56, 56, 3))
    assert real.static == (family in ("paligemma", "prismatic"))
    if real.static:
        assert on_a_gpu(lambda: hub(folder), text, **pictures).shape == (1, 1, real.width)
    else:
        with pytest.raises(LOOKS):
            on_a_gpu(lambda: hub(folder), text, **pictures)


def test_a_graph_can_hold_the_small_model():
    tokenizer = build_tokenizer([INSTRUCTION])
    config = SmallVLMConfig(image_size=32, vision_width=32, language_width=32)

    def make():
        return SmallVLM(config, cameras=["front"], proprio_dim=4, tokenizer=tokenizer)

    assert make().static
    text = make().tokenize([INSTRUCTION])
    assert on_a_gpu(make, text, front=(32, 32, 3)).shape == (1, 1, 32)


@pytest.mark.parametrize("kind", ["diffusion", "flow"])
def test_a_graph_can_hold_the_loop(kind):
    sizes = {"action_dim": 3, "chunk": 8}
    process, config = {"diffusion": (DiffusionHead, DiffusionConfig()), "flow": (FlowHead, FlowConfig())}[kind]
    head = process(config, torch.nn.Identity(), **sizes)
    with FakeTensorMode(), torch.no_grad(), torch.device("cuda"):
        head.denoiser = DiT(DiTSize(1, 32, 2), **sizes, token_dim=16)
        context = TokenGroup(torch.zeros(1, 1, 16), torch.ones(1, 1, dtype=torch.bool))
        with NothingFromTheHost():
            assert head.sample(context, torch.zeros(1, 8, 3)).shape == (1, 8, 3)


class Tape(TorchDispatchMode):
    """Does for the CPU what a CUDA graph does: the same operations on the same memory, whatever was the reason."""

    def __init__(self):
        super().__init__()
        self.done = []

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        made = func(*args, **(kwargs or {}))
        self.done.append((func, args, kwargs or {}, made))
        return made

    def replay(self):
        for func, args, kwargs, made in self.done:
            again = func(*args, **kwargs)
            for old, new in zip(tree_leaves(made), tree_leaves(again), strict=True):
                if isinstance(old, torch.Tensor) and old.data_ptr() != new.data_ptr():
                    old.copy_(new)


@pytest.fixture
def tapes(monkeypatch):
    """CUDA graphs are tapes; all that were made."""
    made = []

    def tape():
        made.append(Tape())
        return made[-1]

    stream = SimpleNamespace(wait_stream=lambda other: None)
    monkeypatch.setattr(torch.cuda, "CUDAGraph", tape)
    monkeypatch.setattr(torch.cuda, "graph", lambda tape, pool: tape)
    monkeypatch.setattr(torch.cuda, "Stream", lambda: stream)
    monkeypatch.setattr(torch.cuda, "current_stream", lambda: stream)
    monkeypatch.setattr(torch.cuda, "stream", lambda stream: nullcontext())
    monkeypatch.setattr(torch.cuda, "device", lambda device: nullcontext())
    return made


def test_a_graph_follows_its_inputs_and_leaves_alone_what_it_gave(tapes):
    graph = Graph(lambda a, b: (a @ b).relu() + 1, torch.randn(2, 3), torch.randn(3, 2))
    given = [(torch.randn(2, 3), torch.randn(3, 2)) for _ in range(3)]
    found = [graph(*inputs) for inputs in given]
    for output, (a, b) in zip(found, given, strict=True):
        torch.testing.assert_close(output, (a @ b).relu() + 1)


@pytest.mark.parametrize("family", ["paligemma", "prismatic", "small"])
def test_a_recorded_policy_heeds_pictures_words_proprio_and_noise(family, tapes, tiny_vlm, tmp_path):
    torch.manual_seed(0)
    if family == "small":
        config, tokenizer = (
            CogACTConfig(SmallVLMConfig(image_size=56, patch_size=4)),
            build_tokenizer(["a b", "b a", "b"]),
        )
        backbone = SmallVLM(config.backbone, cameras=["front", "wrist"], proprio_dim=4, tokenizer=tokenizer)
    else:
        config, backbone = CogACTConfig(), hub(tiny_vlm.save_tiny(family, tmp_path))
    model = CogACTModel(config, backbone, action_dim=3).eval().requires_grad_(False)
    for parameter in model.parameters():
        if not parameter.any():
            torch.nn.init.normal_(parameter, std=0.1)
    sample = Hastened(model)
    sample._on_gpu = True
    pictures = [torch.randint(0, 256, (1, 56, 56, 3), dtype=torch.uint8) for _ in range(2)]
    plain = {"image.front": pictures[0], "image.wrist": pictures[0], "proprio": torch.zeros(1, 4)}
    plain["text"] = backbone.tokenize(["a b"])
    others = {"image.wrist": pictures[1], "proprio": torch.ones(1, 4), "text": backbone.tokenize(["b a"])}
    noise = torch.randn(2, 1, *model.head.noise_shape)
    expected = model.sample(plain, noise[0])
    torch.testing.assert_close(sample(plain, noise[0]), expected)
    for name, value in others.items():
        changed = {**plain, name: value}
        torch.testing.assert_close(sample(changed, noise[0]), model.sample(changed, noise[0]))
    torch.testing.assert_close(sample(plain, noise[1]), model.sample(plain, noise[1]))
    assert len(tapes) == 2
    sample({**plain, "text": backbone.tokenize(["b"])}, noise[0])
    assert len(tapes) == 3
    torch.testing.assert_close(sample(plain, noise[0]), expected)
    assert sample.refused == []
