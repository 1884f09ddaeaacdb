"""Boards that tell a camera where it is: printed, and found again in its pictures.

    board = Charuco(columns=7, rows=5, square=0.030, marker=0.022)
    width_mm, height_mm = write_board(board, Path("board.png"))      # and board.json, which describes it
    sighting = board.find(picture)                                    # None where it is not seen

        y ▲ ┌───────┐
          │ │ ■ □ ■ │    Frame of every board: origin in the middle of the pattern, x to the right of the print,
          o─┼─▶ x   │    y up, z out of the paper. A board that lies flat, x along the base's, has the base's axes.
            └───────┘

Tags are AprilTags of the family 36h11, as OpenCV draws them: those of the AprilTag project's own pictures lie upside
down to ours, half a turn about z.
"""

import json
import struct
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

from vla.errors import UnderstudyError, unknown

Floats = NDArray[np.float64]
Picture = NDArray[np.uint8]
"""[H, W] grey or [H, W, 3] RGB."""
DICTIONARIES: Mapping[str, int] = {
    name.removeprefix("DICT_").lower(): int(getattr(cv2.aruco, name))
    for name in dir(cv2.aruco)
    if name.startswith("DICT_")
}
TAGS = "apriltag_36h11"
TAG_MODULES = 8
"""Squares of black or white across a tag 36h11, its border included."""
TAG_COUNT = 587
LEAST_CORNERS = 6
"""So many corners of a ChArUco board make a sighting; four alone can lie on a wrong board as well."""
PICTURES = {".png", ".jpg", ".jpeg", ".bmp", ".tif", ".tiff", ".webp"}
VIDEOS = {".mp4", ".mov", ".mkv", ".avi", ".webm", ".m4v"}
FRAMES = 60
"""Of a video so many pictures are looked at, evenly spread."""
PIXELS_PER_MM, MARGIN_MM = 10, 14
RULERS_MM = (100, 50, 20, 10)


@dataclass(frozen=True)
class Sighting:
    """What one picture shows of a board: ``points`` [N, 3] m in the board's frame, and their ``pixels`` [N, 2]."""

    points: Floats
    pixels: Floats


@dataclass(frozen=True)
class Charuco:
    """A chessboard with markers in its white squares: ``square`` and ``marker`` [m] are the sides of both.

    Found also where a part is hidden, and finer than tags: the board for lenses. ``legacy``: its first square is white
    though the number of rows is even, as OpenCV before 4.6 drew it.
    """

    columns: int = 7
    rows: int = 5
    square: float = 0.030
    marker: float = 0.022
    dictionary: str = "4x4_50"
    legacy: bool = False

    def __post_init__(self) -> None:
        if self.dictionary not in DICTIONARIES:
            raise unknown("dictionary of markers", self.dictionary, DICTIONARIES)
        if min(self.columns, self.rows) < 3:
            raise UnderstudyError(f"a ChArUco board has 3 columns and rows or more, got {self.columns}×{self.rows}")
        if not 0.4 * self.square <= self.marker <= 0.95 * self.square:
            raise UnderstudyError(
                f"a marker takes 0.4 to 0.95 of its square, got {self.marker * 1e3:g} mm of {self.square * 1e3:g} mm"
            )
        held = len(cv2.aruco.getPredefinedDictionary(DICTIONARIES[self.dictionary]).bytesList)
        if self.columns * self.rows // 2 > held:
            raise UnderstudyError(
                f"{self.columns}×{self.rows} squares need {self.columns * self.rows // 2} markers, and "
                f"{self.dictionary} has {held}: take fewer squares, or a larger dictionary"
            )

    @property
    def about(self) -> str:
        """In one line."""
        return (
            f"charuco {self.columns}x{self.rows}, squares {self.square * 1e3:g} mm, markers {self.marker * 1e3:g} mm "
            f"({self.dictionary})"
        )

    @property
    def size(self) -> tuple[float, float]:
        """Width and height [m]."""
        return self.columns * self.square, self.rows * self.square

    def pattern(self, pixels_per_mm: float) -> Picture:
        """The pattern alone [H, W]."""
        width, height = (round(side * 1e3 * pixels_per_mm) for side in self.size)
        return np.asarray(self._board().generateImage((width, height), marginSize=0), np.uint8)

    def find(self, picture: Picture) -> Sighting | None:
        """The inner corners of the chessboard that are seen, six or more and not on one line."""
        board = self._board()
        corners, ids, _, _ = cv2.aruco.CharucoDetector(board).detectBoard(grey(picture))
        if ids is None or len(ids) < LEAST_CORNERS or board.checkCharucoCornersCollinear(ids):
            return None
        width, height = self.size
        # OpenCV's board has its origin at the upper left, y down.
        held = np.array(board.getChessboardCorners(), np.float64)[ids.ravel()]
        points = (held - [width / 2, height / 2, 0]) * [1, -1, -1]
        rough = np.asarray(corners, np.float32).reshape(-1, 2)
        return Sighting(points, _settled(grey(picture), rough, 0.8 * (1 - self.marker / self.square) / 2))

    def _board(self) -> cv2.aruco.CharucoBoard:
        chosen = cv2.aruco.getPredefinedDictionary(DICTIONARIES[self.dictionary])
        board = cv2.aruco.CharucoBoard((self.columns, self.rows), self.square, self.marker, chosen)
        board.setLegacyPattern(self.legacy)
        return board


@dataclass(frozen=True)
class AprilTags:
    """One tag 36h11, or a grid of them: ``tag`` [m] the black square's side, ``gap`` [m] between two.

    Ids ascend from ``first``, row by row from the upper left. Found from farther than a ChArUco board of that size.
    """

    tag: float = 0.060
    columns: int = 1
    rows: int = 1
    gap: float = 0.015
    first: int = 0

    def __post_init__(self) -> None:
        if min(self.columns, self.rows) < 1 or not self.tag > 0:
            raise UnderstudyError(f"a grid of tags has a column, a row and tags of some size, got {self.about}")
        if self.gap < self.tag / TAG_MODULES and self.columns * self.rows > 1:
            raise UnderstudyError(
                f"tags of {self.tag * 1e3:g} mm need {self.tag * 1e3 / TAG_MODULES:g} mm of white between them, "
                f"got {self.gap * 1e3:g} mm"
            )
        if not 0 <= self.first <= TAG_COUNT - self.columns * self.rows:
            raise UnderstudyError(f"the ids of tags 36h11 are 0…{TAG_COUNT - 1}, got {self.about}")

    @property
    def about(self) -> str:
        """In one line."""
        last = self.first + self.columns * self.rows - 1
        ids = f"id {self.first}" if last == self.first else f"ids {self.first} to {last}"
        return f"apriltag 36h11 {self.columns}x{self.rows}, tags {self.tag * 1e3:g} mm, {ids}"

    @property
    def size(self) -> tuple[float, float]:
        """Width and height [m]."""
        across, down = (count * (self.tag + self.gap) - self.gap for count in (self.columns, self.rows))
        return across, down

    def corners(self) -> dict[int, Floats]:
        """Of each tag by its id, [4, 3] m in the board's frame: clockwise in the print from its upper left."""
        width, height = self.size
        square = self.tag / 2 * np.array([[-1, 1, 0], [1, 1, 0], [1, -1, 0], [-1, -1, 0.0]])
        pitch = self.tag + self.gap
        found = {}
        for number in range(self.columns * self.rows):
            row, column = divmod(number, self.columns)
            middle = np.array([(self.tag - width) / 2 + column * pitch, (height - self.tag) / 2 - row * pitch, 0])
            found[self.first + number] = square + middle
        return found

    def pattern(self, pixels_per_mm: float) -> Picture:
        """The pattern alone [H, W]."""
        scale = 1e3 * pixels_per_mm
        width, height = (round(side * scale) for side in self.size)
        sheet = np.full((height, width), 255, np.uint8)
        chosen, side = cv2.aruco.getPredefinedDictionary(DICTIONARIES[TAGS]), round(self.tag * scale)
        for number in range(self.columns * self.rows):
            row, column = divmod(number, self.columns)
            top, left = (round(place * (self.tag + self.gap) * scale) for place in (row, column))
            drawn = cv2.aruco.generateImageMarker(chosen, self.first + number, side)
            sheet[top : top + side, left : left + side] = drawn[: height - top, : width - left]
        return sheet

    def find(self, picture: Picture) -> Sighting | None:
        """The corners of those of its tags that are seen."""
        own, seen = self.corners(), find_tags(picture)
        there = sorted(set(own) & set(seen))
        if not there:
            return None
        return Sighting(np.concatenate([own[tag] for tag in there]), np.concatenate([seen[tag] for tag in there]))


Board = Charuco | AprilTags
KINDS: dict[str, type[Charuco] | type[AprilTags]] = {"charuco": Charuco, "tags": AprilTags}
LENGTHS = ("square", "marker", "tag", "gap")
"""Fields in metres, which are millimetres in a file, as a ruler has them."""


def find_tags(picture: Picture) -> dict[int, Floats]:
    """Corners [4, 2] px of every tag 36h11 by its id, clockwise from the tag's upper left.

    Raises `UnderstudyError` for two tags of one id.
    """
    rules = cv2.aruco.DetectorParameters()
    rules.cornerRefinementMethod = cv2.aruco.CORNER_REFINE_SUBPIX
    shades = grey(picture)
    detector = cv2.aruco.ArucoDetector(cv2.aruco.getPredefinedDictionary(DICTIONARIES[TAGS]), rules)
    corners, ids, _ = detector.detectMarkers(shades)
    found: dict[int, Floats] = {}
    names = [] if ids is None else [int(name) for name in ids.ravel()]
    for number, rough in zip(names, corners, strict=True):
        fine = _sharpened(shades.astype(np.float32), np.asarray(rough, np.float64).reshape(4, 2))
        if number in found and np.abs(fine - found[number]).max() > 2:
            raise UnderstudyError(f"the tag {number} is there twice: every tag in a picture must have an id of its own")
        found[number] = fine
    return found


def grey(picture: Picture) -> Picture:
    """[H, W] of a picture that is grey or RGB."""
    if picture.ndim == 2:
        return picture
    return np.asarray(cv2.cvtColor(picture, cv2.COLOR_RGB2GRAY), np.uint8)


def _settled(shades: Picture, corners: NDArray[np.float32], share: float) -> Floats:
    """Corners [N, 2] of a chessboard, anew: what OpenCV's detector gives is half a pixel too far before 4.14.

    ``share`` of the way to the nearest other corner is looked at around each, and no marker is to be within.
    """
    apart = np.linalg.norm(corners[:, None] - corners[None], axis=-1)
    reach = np.sort(apart, axis=1)[:, 1] * share
    rule = (cv2.TERM_CRITERIA_EPS | cv2.TERM_CRITERIA_MAX_ITER, 50, 1e-3)
    found = np.empty((len(corners), 2))
    for number, (corner, side) in enumerate(zip(corners, np.clip(np.round(reach), 2, 11).astype(int), strict=True)):
        found[number] = cv2.cornerSubPix(shades, corner.reshape(1, 1, 2).copy(), (side, side), (-1, -1), rule)[0, 0]
    return found


def _sharpened(shades: NDArray[np.float32], corners: Floats) -> Floats:
    """Corners [4, 2] of a tag, anew: where lines through the middle of its four edges meet.

    OpenCV's own ways miss by 0.2 to 0.5 px on rendered tags (its AprilTag way by half a pixel, always); this by 0.03.
    """
    share, steps = np.linspace(0.08, 0.92, 25), np.linspace(-1, 1, 25)
    for _ in range(2):
        along = np.roll(corners, -1, axis=0) - corners
        lengths = np.linalg.norm(along, axis=1)
        normal = np.stack([along[:, 1], -along[:, 0]], axis=1) / lengths[:, None]
        across = steps * np.clip(0.4 * lengths.min() / TAG_MODULES, 1, 3)
        on_edge = corners[:, None] + along[:, None] * share[:, None]
        where = (on_edge[:, :, None] + normal[:, None, None] * across[:, None]).astype(np.float32)
        profile = cv2.remap(shades, where.reshape(-1, 1, 2), np.empty(0), cv2.INTER_LINEAR).reshape(where.shape[:3])
        change = np.abs(np.diff(profile, axis=-1)) + 1e-6
        shift = change @ ((across[1:] + across[:-1]) / 2) / change.sum(-1)
        lines = []
        for edge in range(4):
            slope, start = np.polyfit(share, shift[edge], 1, w=change[edge].sum(-1))
            first = np.append(corners[edge] + normal[edge] * start, 1)
            last = np.append(corners[edge] + along[edge] + normal[edge] * (start + slope), 1)
            lines.append(np.cross(first, last))
        met = np.array([np.cross(lines[edge - 1], lines[edge]) for edge in range(4)])
        corners = met[:, :2] / met[:, 2:]
    return corners


def page(board: Board, pixels_per_mm: float = PIXELS_PER_MM) -> Picture:
    """The sheet to print [H, W]: the pattern, the ends of its axes, a ruler, and what it is."""
    pattern, margin = board.pattern(pixels_per_mm), round(MARGIN_MM * pixels_per_mm)
    sheet = np.pad(pattern, margin, constant_values=255)
    height, width = sheet.shape
    thick, tick = max(1, round(0.2 * pixels_per_mm)), round(3 * pixels_per_mm)
    for end in (0, width - tick):
        cv2.line(sheet, (end, height // 2), (end + tick, height // 2), 0, thick)
    for end in (0, height - tick):
        cv2.line(sheet, (width // 2, end), (width // 2, end + tick), 0, thick)
    _write(sheet, "x", (width - tick, height // 2 - tick // 3), pixels_per_mm)
    _write(sheet, "y", (width // 2 + tick // 3, tick), pixels_per_mm)
    low, wide = height - round(7 * pixels_per_mm), pattern.shape[1]
    ruler_mm = next((one for one in RULERS_MM if one * pixels_per_mm <= wide), RULERS_MM[-1])
    ends = margin, margin + round(ruler_mm * pixels_per_mm)
    cv2.line(sheet, (ends[0], low), (ends[1], low), 0, thick)
    for end in ends:
        cv2.line(sheet, (end, low - tick // 3), (end, low + tick // 3), 0, thick)
    _write(sheet, f"{ruler_mm} mm; {board.about}", (margin, height - round(2.5 * pixels_per_mm)), pixels_per_mm)
    return sheet


def _write(sheet: Picture, text: str, place: tuple[int, int], pixels_per_mm: float) -> None:
    """Letters 2 mm high, or as high as the sheet is wide enough for."""
    scale, thick = 2 * pixels_per_mm / 22, max(1, round(0.2 * pixels_per_mm))
    (wide, _), _ = cv2.getTextSize(text, cv2.FONT_HERSHEY_SIMPLEX, scale, thick)
    scale *= min(1.0, (sheet.shape[1] - place[0]) / wide)
    cv2.putText(sheet, text, place, cv2.FONT_HERSHEY_SIMPLEX, scale, 0, thick, cv2.LINE_AA)


def write_board(board: Board, file: Path) -> tuple[float, float]:
    """Write a png to print and, beside it, a json that describes the board; the sheet's width and height [mm].

    Raises `UnderstudyError` for a file of another kind, or a folder that cannot be written.
    """
    if file.suffix.lower() != ".png":
        raise UnderstudyError(f"a board is written as a png, got {file}")
    sheet = page(board)
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(_with_size(cv2.imencode(".png", sheet)[1].tobytes(), 1000 * PIXELS_PER_MM))
        save_board(board, file.with_suffix(".json"))
    except OSError as error:
        raise UnderstudyError(f"{file} cannot be written: {error.strerror}") from error
    return sheet.shape[1] / PIXELS_PER_MM, sheet.shape[0] / PIXELS_PER_MM


def _with_size(png: bytes, pixels_per_m: int) -> bytes:
    """The png with its physical size behind the header: what a printer goes by."""
    body = b"pHYs" + struct.pack(">IIB", pixels_per_m, pixels_per_m, 1)
    after = 8 + 25  # signature, then the header's own chunk
    return png[:after] + struct.pack(">I", 9) + body + struct.pack(">I", zlib.crc32(body)) + png[after:]


def save_board(board: Board, file: Path) -> None:
    """Describe a board as JSON, lengths in mm: to be corrected by hand where the print came out smaller."""
    kind = next(name for name, made in KINDS.items() if isinstance(board, made))
    held = {(f"{key}_mm" if key in LENGTHS else key): _mm(key, value) for key, value in asdict(board).items()}
    file.write_text(json.dumps({"board": kind, **held}, indent=2) + "\n")


def _mm(key: str, value: float) -> float:
    return round(value * 1e3, 6) if key in LENGTHS else value


def load_board(file: Path) -> Board:
    """Read what `save_board` wrote; raises `UnderstudyError` for what is missing or is no board."""
    if not file.is_file():
        raise UnderstudyError(f"there is no board {file}; print one: vla calibrate board --out board.png")
    try:
        held = json.loads(file.read_text())
        kind = held.pop("board")
        if kind not in KINDS:
            raise unknown("kind of board", kind, KINDS)
        for key in LENGTHS:
            if f"{key}_mm" in held:
                held[key] = float(held.pop(f"{key}_mm")) / 1e3
        return KINDS[kind](**held)
    except UnderstudyError:
        raise
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise UnderstudyError(f"{file} describes no board ({error}); make one: vla calibrate board --help") from error


def read_pictures(paths: Sequence[Path]) -> dict[str, Picture]:
    """Grey pictures [H, W] by file name, upright: files, all in a folder, and frames of videos (``name@frame``).

    Raises `UnderstudyError` for what cannot be read, and for two of one name.
    """
    found: dict[str, Picture] = {}
    for path in paths:
        inside = [one for one in sorted(path.iterdir()) if one.suffix.lower() in PICTURES] if path.is_dir() else [path]
        for file in inside:
            read = _frames(file) if file.suffix.lower() in VIDEOS else {file.name: _picture(file)}
            if twice := set(read) & set(found):
                raise UnderstudyError(f"there are two pictures {min(twice)!r}: a picture is known by its name")
            found |= read
    if not found:
        raise UnderstudyError(f"there is no picture in {', '.join(map(str, paths))}")
    return found


def _picture(file: Path) -> Picture:
    if not file.is_file():
        raise UnderstudyError(f"there is no picture {file}")
    read = cv2.imdecode(np.frombuffer(file.read_bytes() or b"?", np.uint8), cv2.IMREAD_GRAYSCALE)
    if read is None:
        raise UnderstudyError(f"{file} is no picture that can be read; allowed: {', '.join(sorted(PICTURES | VIDEOS))}")
    return np.asarray(read, np.uint8)


def _frames(file: Path) -> dict[str, Picture]:
    if not file.is_file():
        raise UnderstudyError(f"there is no video {file}")
    video, found, number = cv2.VideoCapture(str(file)), {}, 0
    step = max(1, int(video.get(cv2.CAP_PROP_FRAME_COUNT)) // FRAMES)
    while video.grab():
        if number % step == 0 and (read := video.retrieve())[0]:
            found[f"{file.name}@{number}"] = np.asarray(cv2.cvtColor(read[1], cv2.COLOR_BGR2GRAY), np.uint8)
        number += 1
    video.release()
    if not found:
        raise UnderstudyError(f"{file} cannot be decoded here; turn it into H.264, or into pictures")
    return found
