"""The page of a retargeted video, and its film: the hand at the left, the arm that repeats it at the right."""

from collections.abc import Iterator, Mapping, Sequence
from importlib import import_module
from pathlib import Path

import cv2
import numpy as np

from robot_bridge.retarget.cameras import Camera
from robot_bridge.retarget.grasps import events
from robot_bridge.retarget.hands import Floats
from robot_bridge.retarget.linkage import Linkage
from robot_bridge.retarget.overlay import overlaid, write
from robot_bridge.retarget.quality import BARS, Quality, Segment
from robot_bridge.retarget.retarget import Retargeted, guessed_camera
from vla.charts import Band, legend, line_chart, short
from vla.data.video import write_mp4
from vla.markup import Markup, document, el, join

PAGE, FILM = "report.html", "hand_and_arm.mp4"
HEIGHT = 360
FIGURES = {
    "seconds": "seconds of the clip in which the hand is known",
    "detection_rate": "share of the frames in which the hand is seen",
    "gaps": "gaps in which it is not",
    "grasps": "grasps",
    "reprojection_px": "pixels by which the cameras disagree, median",
    "jerk_raw": "jerk of the hand as it was seen, rms [m/s³]",
    "jerk": "jerk of the path, rms [m/s³]",
    "inverse_mm_median": "millimetres by which the tool stays off its path, median",
    "reachable": "share of the path that the arm reaches",
    "at_joint_end": "frames with a joint at its end",
    "position_violations": "setpoints beyond a joint's end",
    "velocity_violations": "setpoints beyond a joint's speed",
    "velocity_used": "largest share of a joint's speed that is used",
    "acceleration_violations": "setpoints beyond a joint's acceleration",
    "acceleration_used": "largest share of a joint's acceleration that is used",
}
WORDS = {
    "execute": "ready for the arm",
    "check": "look at it before the arm is armed",
    "reject": "not for an arm: vla drive refuses it",
}


def write_report(out: Path, made: Retargeted, *, filmed: bool, facts: Mapping[str, object]) -> Path:
    """Write the page into ``out``, where the quality is, and the film if it was ``filmed``."""
    film = el("video", src=FILM, controls=True, width="100%") if filmed else None
    page = document(
        f"{made.quality.verdict} · Understudy retarget",
        _headline(made.quality),
        el("section", el("h2", "The hand and the arm"), film) if film is not None else None,
        _segments(made.quality.segments),
        _figures(made.quality),
        _path(made),
        el(
            "section",
            el("h2", "Made of"),
            el("dl", *[join(el("dt", key), el("dd", str(v))) for key, v in facts.items()]),
        ),
        el("footer", "All figures are in quality.json beside this page."),
    )
    (out / PAGE).write_text(page)
    return out / PAGE


def write_film(video: Path, out: Path, made: Retargeted, linkage: Linkage, cameras: Mapping[str, Camera]) -> Path:
    """The film of the first video, ``hand_and_arm.mp4`` in ``out``."""
    name, track = next(iter(made.tracks.items()))
    rate = (len(track.stamps) - 1) / max(float(np.ptp(track.stamps)), 1e-3)
    camera = cameras.get(name) or guessed_camera(track.size)
    write_mp4(out / FILM, _side_by_side(video, made, linkage, camera), fps=max(rate, 1.0))
    return out / FILM


def _side_by_side(
    video: Path, made: Retargeted, linkage: Linkage, camera: Camera
) -> Iterator[tuple[float, np.ndarray]]:
    view = import_module("sim.retarget_view").ArmView(linkage, camera, height=HEIGHT)  # it is seen as it is simulated
    track = next(iter(made.tracks.values()))
    spans = [(made.path.stamps[a], made.path.stamps[b - 1]) for a, b in events(made.path.closed)]
    size = (round(HEIGHT * track.size[0] / track.size[1]), HEIGHT)
    last = np.zeros((HEIGHT, size[0], 3), np.uint8)
    try:
        for frame, (stamp, hand) in enumerate(overlaid(video, track)):
            joints = made.solved.joints[frame]
            if np.isfinite(joints).all():
                last = view.picture(joints)
                last = last if last.shape[:2] == size[::-1] else cv2.resize(last, size)
            arm = last.copy()
            holds = any(a <= stamp <= b for a, b in spans)
            write(arm, "hand unknown" if not made.path.known[frame] else "closed" if holds else "open")
            yield stamp, np.hstack([cv2.resize(hand, size, interpolation=cv2.INTER_AREA), arm])
    finally:
        view.close()


def _headline(quality: Quality) -> Markup:
    pill = el("span", quality.verdict, class_=f"pill {'ko' if quality.verdict == 'reject' else 'ok'}")
    why = [el("p", reason) for reason in quality.reasons]
    return el("header", el("h1", f"Retargeted video: {WORDS[quality.verdict]}"), *why, pill)


def _segments(segments: Sequence[Segment]) -> Markup:
    head = el("tr", *[el("th", word) for word in ("segment", "from – to", "verdict", *BARS, "why")])
    rows = [
        el(
            "tr",
            el("td", one.name),
            el("td", f"{one.start_s:.2f} – {one.end_s:.2f} s"),
            el("td", el("span", one.verdict, class_=f"pill {'ko' if one.verdict == 'reject' else 'ok'}")),
            *[el("td", short(one.figures[name]), class_="num") for name in BARS],
            el("td", "; ".join(one.reasons)),
        )
        for one in segments
    ]
    bars = [
        el("li", f"{name}: {bar.says} [{bar.unit}]; check above {bar.check:g}, reject above {bar.reject:g}")
        for name, bar in BARS.items()
    ]
    table = el("div", el("table", el("thead", head), el("tbody", *rows), class_="plain"), class_="scroll")
    return el("section", el("h2", "Segments"), table, el("details", el("summary", "the bar"), el("ul", *bars)))


def _figures(quality: Quality) -> Markup:
    rows = [
        el("tr", el("td", says), el("td", short(quality.figures[name]), class_="num"))
        for name, says in FIGURES.items()
        if name in quality.figures
    ]
    return el("section", el("h2", "The whole clip"), el("div", el("table", el("tbody", *rows), class_="plain")))


def _path(made: Retargeted) -> Markup:
    path, x = made.path, made.path.stamps.tolist()
    bands: list[Band] = [(x[a], x[b - 1], "tracking") for a, b in events(path.closed)]
    panels = [
        line_chart(f"tool {name}", x, {"path": _line(path.position[:, index])}, unit="m", log=False, bands=bands)
        for index, name in enumerate("xyz")
    ]
    panels.append(line_chart("opening", x, {"path": _line(path.opening)}, unit="m", log=False, bands=bands))
    if np.isfinite(path.error_px).any():
        panels.append(
            line_chart("cameras disagree", x, {"path": _line(path.error_px)}, unit="px", log=False, bands=bands)
        )
    panels.append(line_chart("off the path", x, {"path": _line(1e3 * made.solved.position_m)}, unit="mm", bands=bands))
    if made.joints is not None:
        stamps = made.joints.stamps.tolist()
        panels += [
            line_chart(f"joint {index + 1}", stamps, {"path": _line(column)}, unit="rad", log=False)
            for index, column in enumerate(made.joints.joints.T)
        ]
    style = el("style", Markup(".tracking { fill: var(--policy); opacity: .12 }"))
    note = el(
        "p", "Over seconds of the video, joints over seconds of the arm; shaded: something is held.", class_="muted"
    )
    return el("section", style, el("h2", "The path"), note, legend(["path"]), el("div", *panels, class_="panels"))


def _line(values: Floats) -> list[float | None]:
    return [float(value) if np.isfinite(value) else None for value in values]
