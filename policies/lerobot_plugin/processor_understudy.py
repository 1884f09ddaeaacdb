"""What LeRobot does to a batch on its way to our policies and back: nothing but renaming, batching and moving."""

from typing import Any

from lerobot.processor import PolicyProcessorPipeline, make_default_pre_post_processors

from policies.lerobot_plugin.configuration_understudy import UnderstudyConfig


def make_understudy_pre_post_processors(
    config: UnderstudyConfig, dataset_stats: dict[str, Any] | None = None
) -> tuple[PolicyProcessorPipeline, PolicyProcessorPipeline]:
    """The two pipelines; ``dataset_stats`` are not used, since the policy keeps its own normalisers."""
    return make_default_pre_post_processors(config, dataset_stats)
