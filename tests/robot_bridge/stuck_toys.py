"""Arms that are slow, or do not do what they are told: ``stuck_toys:SlowArm``."""

from dataclasses import replace

from streamed_toys import SPEC, ToyArm

from robot_bridge.arms.arm import ArmState, Limits


class SlowArm(ToyArm):
    """Takes more than a second to brake."""

    spec = replace(SPEC, limits=Limits((-9.0, 0.0), (9.0, 1.0), (1.5, 0.3), (1.0, 1.0), (10.0, 10.0), (0.3, 1.5)))


class FrozenArm(ToyArm):
    """After some ticks it says for ever what it said."""

    spec = replace(SPEC, limits=replace(SPEC.limits, velocity=(0.8, 1.0)))
    told = None

    def state(self):
        if len(self.sent) < 60 or self.told is None:
            self.told = super().state()
        return self.told


class BlockedArm(ToyArm):
    """Its hinge stays where it is."""

    spec = replace(SPEC, limits=replace(SPEC.limits, velocity=(0.8, 1.0), lag=(0.1, 1.5)))

    def state(self):
        told = super().state()
        return ArmState(told.joints * [0, 1] + [0.2, 0], told.proprio, told.stamp_ns)


class HesitantArm(BlockedArm):
    """It is blocked for a tenth of a second, and then follows."""

    def state(self):
        return super().state() if 60 < len(self.sent) <= 70 else ToyArm.state(self)
