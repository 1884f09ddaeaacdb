r"""Our policies as LeRobot's: ``--policy.type=understudy`` for lerobot-train, lerobot-eval and the others.

    lerobot-train --policy.discover_packages_path=policies.lerobot_plugin --policy.type=understudy \
        --policy.recipe=cogact --policy.preset=cpu --dataset.repo_id=local/mine --dataset.root=outputs/collect …

LeRobot finds it by that flag, or by itself once ``sim/lerobot_plugin/distribution`` is installed. A folder that either
side saves is a checkpoint for both: LeRobot's ``config.json`` and processors stand beside our files, the weights are
the same file.
"""
