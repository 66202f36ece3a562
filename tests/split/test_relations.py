"""Relatives: hashes against brute force, and a planted set in which every relative is known."""

from __future__ import annotations

from itertools import combinations

import cv2
import numpy as np
import pytest

from histoxai.ingest.hashes import content, orbit, perceptual, turned
from histoxai.ingest.quality import QUALITY, quality, tissue
from histoxai.split.relations import (
    Identity,
    Places,
    Relation,
    families,
    leaks,
    members,
    near_pairs,
    overlaps,
    relations,
)


def tissue_like(seed: int, size: tuple[int, int] = (48, 48)) -> np.ndarray:
    rng = np.random.default_rng(seed)
    noise = cv2.GaussianBlur(rng.normal(size=(*size, 3)).astype(np.float32), (0, 0), 3)
    return ((noise - noise.min()) / (noise.max() - noise.min()) * 255).astype(np.uint8)


def eight(image: np.ndarray) -> list[np.ndarray]:
    return [np.ascontiguousarray(np.rot90(m, k)) for m in (image, image[:, ::-1]) for k in range(4)]


def related(relation: Relation) -> set[tuple[int, int]]:
    """All pairs of rows that a relation relates, by what it says of codes."""
    pairs = {(int(a), int(b)) for a, b in relation.pairs}
    codes = relation.code.tolist()
    return {
        (i, j)
        for (i, a), (j, b) in combinations(enumerate(codes), 2)
        if a >= 0 and b >= 0 and (a == b or (a, b) in pairs or (b, a) in pairs)
    }


@pytest.mark.parametrize("size", [(48, 48), (32, 48)])
def test_the_orbit_is_shared_by_all_eight_versions_and_nobody_else(size: tuple[int, int]) -> None:
    images = [tissue_like(k, size) for k in range(20)]
    hashes = [{tuple(orbit(v).tolist()) for v in eight(image)} for image in images]
    assert all(len(h) == 1 for h in hashes)
    assert len(set().union(*hashes)) == 20
    assert len({tuple(content(v).tolist()) for image in images for v in eight(image)}) == 160
    image = images[0].copy()
    image[5, 5, 0] ^= 1
    assert not np.array_equal(orbit(image), orbit(images[0]))


def test_a_patch_of_one_colour_is_nobodys_relative() -> None:
    blank = np.full((16, 16, 3), 240, np.uint8)
    assert not content(blank).any()
    assert not orbit(blank).any()
    assert perceptual(blank) == 0
    blank[3, 3, 1] = 239
    assert content(blank).any()


def test_turned_hashes_are_the_hashes_of_turned_images() -> None:
    # sizes at which the shrunken image turns exactly with the large one
    for k in range(10):
        image = tissue_like(k, (64, 64))
        wanted = sorted(int(perceptual(v)) for v in eight(image))
        assert sorted(turned(np.array([perceptual(image)]))[:, 0].tolist()) == wanted


def test_near_pairs_are_those_of_brute_force() -> None:
    rng = np.random.default_rng(0)
    base = rng.integers(0, 2**63, 40, dtype=np.uint64) | np.uint64(1)
    flips = [np.uint64(sum(1 << int(b) for b in rng.choice(np.arange(1, 64), k, replace=False))) for k in range(7)]
    hashes = np.concatenate([base, base[:7] ^ np.array(flips), turned(base[10:13])[5], np.zeros(2, np.uint64)])
    versions = turned(hashes)
    for bits in (0, 1, 4, 6):
        wanted = [
            (a, b)
            for a, b in combinations(range(len(hashes)), 2)
            if hashes[a] and hashes[b] and min(int(np.bitwise_count(v[b] ^ hashes[a])) for v in versions) <= bits
        ]
        assert related(near_pairs(hashes, bits)) == set(wanted)
        assert len(wanted) >= bits + 1 + 3


def test_jpeg_and_scaling_are_near_and_other_tissue_is_not() -> None:
    images = [tissue_like(k, (96, 96)) for k in range(30)]
    copies = []
    for image in images[:10]:
        _, data = cv2.imencode(".jpg", cv2.rotate(image, cv2.ROTATE_90_CLOCKWISE), [cv2.IMWRITE_JPEG_QUALITY, 70])
        smaller = cv2.resize(cv2.imdecode(data, cv2.IMREAD_COLOR), (80, 80), interpolation=cv2.INTER_AREA)
        copies.append(cv2.resize(smaller, (96, 96), interpolation=cv2.INTER_LINEAR))
    found = near_pairs(np.array([perceptual(i) for i in images + copies]), 4)
    assert related(found) == {(k, 30 + k) for k in range(10)}


def test_overlaps_are_those_of_brute_force() -> None:
    rng = np.random.default_rng(1)
    n = 120
    at = Places(
        np.array(["a", "b", ""])[rng.integers(0, 3, n)],
        rng.integers(0, 900, n),
        rng.integers(0, 900, n),
        rng.choice([64.0, 96.0], n),
        rng.choice([64.0, 32.0], n),
    )
    # tiles that touch do not overlap
    at.x[:3], at.y[:3], at.width[:3], at.height[:3], at.frame[:3] = (2000, 2064, 2000), (0, 0, 32), 64, 32, "a"
    at.x[3], at.y[3], at.width[3], at.height[3], at.frame[3] = 2000, 0, 64, 32, "a"  # the first one again
    corners = list(zip(at.frame, at.x, at.y, at.width, at.height, strict=True))
    wanted = {
        (i, j)
        for (i, (f, x, y, w, h)), (j, (g, u, v, s, t)) in combinations(enumerate(corners), 2)
        if f and f == g and x < u + s and u < x + w and y < v + t and v < y + h
    }
    assert related(overlaps(at)) == wanted
    assert (0, 3) in wanted
    assert (0, 1) not in wanted
    assert len(wanted) > 20


def test_families_are_chains_of_relatives() -> None:
    same = Relation(np.array([-1, 5, -1, -1, 5, 0, -1, 5]))
    close = Relation(np.array([0, -1, 1, -1, -1, -1, -1, 2]), np.array([[1, 2]]))
    assert families(8, {"same": same, "close": close}).tolist() == [0, 1, 1, 2, 1, 3, 4, 1]
    assert families(3, {}).tolist() == [0, 1, 2]


def test_a_planted_leak_of_each_kind_is_counted_once() -> None:
    image, other = tissue_like(0), tissue_like(1)
    images = [image, image, np.ascontiguousarray(np.rot90(image)), other, tissue_like(2), tissue_like(3)]
    split = np.array([1, 3, 3, 1, 3, 3])
    who = Identity(
        groups={"scan": np.array(["a", "b", "c", "d", "d", "e"]), "patient": np.array(["", "", "p", "", "", "p"])},
        content=np.stack([content(i) for i in images]),
        orbit=np.stack([orbit(i) for i in images]),
        places=Places(
            np.array(["", "", "", "s", "", "s"]),
            np.array([0, 0, 0, 0, 0, 30]),
            np.zeros(6, int),
            np.full(6, 48.0),
            np.full(6, 48.0),
        ),
    )
    found = leaks(who, relations(who), split, held=3, seen=1)
    assert {k: v.tolist() for k, v in found.items()} == {
        "scan": [4],
        "patient": [],
        "duplicate": [1],
        "rotated": [2],
        "overlap": [5],
        "any": [1, 2, 4, 5],
    }
    assert not leaks(who, relations(who), split, held=2, seen=1)["any"].size


def test_quality_of_drawn_patches() -> None:
    glass, pink = np.full((40, 40, 3), 245, np.uint8), np.full((40, 40, 3), (220, 130, 180), np.uint8)
    half = glass.copy()
    half[:20] = pink[:20]
    pen = pink.copy()
    pen[:10] = (20, 160, 60)  # a green marker
    pen[10:20] = (30, 80, 200)  # a blue one
    pen[20:24] = (15, 15, 15)  # a black one
    sharp = np.where((np.indices((40, 40)).sum(axis=0) % 2 == 0)[..., None], pink, 40).astype(np.uint8)
    measured = np.stack([quality(i) for i in (glass, pink, half, pen, sharp)])
    of = {name: measured[:, k] for k, name in enumerate(QUALITY)}
    np.testing.assert_allclose(of["background"], [1, 0, 0.5, 0, 0], atol=1e-6)
    np.testing.assert_allclose(of["pen"][:4], [0, 0, 0, 24 / 40], atol=1e-6)
    np.testing.assert_allclose(of["saturation"][:2], [0, (220 - 130) / 220], atol=0.01)
    grey = cv2.cvtColor(sharp, cv2.COLOR_RGB2GRAY)
    assert of["blur"][0] == of["blur"][1] == 1
    assert of["blur"][4] == pytest.approx(1 / (1 + cv2.Laplacian(grey, cv2.CV_64F).var() / 100), rel=1e-5)
    np.testing.assert_allclose(tissue(measured)[:4], [0, 1, 0.5, 16 / 40], atol=1e-6)


@pytest.mark.parametrize("size", [(1, 1), (1, 1000), (64, 1), (2, 1), (3, 5)])
def test_narrow_patches_have_a_quality_too(size: tuple[int, int]) -> None:
    pink = np.full((*size, 3), (220, 130, 180), np.uint8)
    np.testing.assert_allclose(quality(pink), [1, 0, 0, (220 - 130) / 220], atol=0.01)


def test_blur_grows_with_blur() -> None:
    image = tissue_like(0, (96, 96))
    noisy = np.clip(image + np.random.default_rng(0).normal(0, 20, image.shape), 0, 255).astype(np.uint8)
    values = [quality(noisy if s == 0 else cv2.GaussianBlur(noisy, (0, 0), s))[0] for s in (0, 1, 2, 4)]
    assert values == sorted(values)
    assert values[0] < 0.1 < 0.9 < values[-1]


def test_copies_of_one_patch_are_no_duplicates_and_overlap_nothing() -> None:
    """Rows 0 to 3 are one patch turned, 4 an overlapping tile, 5 and 6 one patch and a mirrored stranger."""
    image, other = tissue_like(0), tissue_like(1)
    turned_images = [np.ascontiguousarray(np.rot90(image, k)) for k in range(4)]
    images = [*turned_images, tissue_like(2), other, np.ascontiguousarray(other[:, ::-1])]
    x = np.array([0, 0, 0, 0, 30, 500, 900])
    who = Identity(
        groups={"scan": np.array(list("aaaabcd"))},
        parent=np.array([0, 0, 0, 0, 1, 2, 3]),
        content=np.stack([content(i) for i in images]),
        orbit=np.stack([orbit(i) for i in images]),
        places=Places(np.full(7, "s"), x, np.zeros(7, int), np.full(7, 48.0), np.full(7, 48.0)),
    )
    found = relations(who)
    assert np.flatnonzero(members(who, "copy", found["copy"])).tolist() == [0, 1, 2, 3]
    assert np.flatnonzero(members(who, "rotated", found["rotated"])).tolist() == [5, 6]
    assert np.flatnonzero(members(who, "overlap", found["overlap"])).tolist() == [0, 1, 2, 3, 4]
    split = np.array([1, 1, 3, 3, 3, 1, 3])
    leaked = {k: v.tolist() for k, v in leaks(who, found, split, held=3, seen=1).items()}
    assert leaked == {
        "scan": [2, 3],
        "copy": [2, 3],
        "duplicate": [],
        "rotated": [6],
        "overlap": [4],
        "any": [2, 3, 4, 6],
    }


def test_many_equal_hashes_and_places_take_no_time() -> None:
    n = 50_000
    at = Places(np.full(n, "s"), np.zeros(n, int), np.zeros(n, int), np.full(n, 64.0), np.full(n, 64.0))
    assert not len(overlaps(at).pairs)
    assert len(set(overlaps(at).code.tolist())) == 1
    assert not len(near_pairs(np.full(n, 12345, np.uint64), 4).pairs)
