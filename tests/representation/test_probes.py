"""Ridge probes on planes, against brute force, and on features that say nothing."""

import numpy as np
import pytest

from vla.errors import UnderstudyError
from vla.representation.evaluation.probes import _left_out_error, _thin_svd, fit_pca, fit_ridge, regression_score


def plane(samples, *, width=6, noise=0.0, seed=0):
    """Features of very different scales and two targets that are linear in them."""
    rng = np.random.default_rng(seed)
    weights = np.random.default_rng(99).normal(size=(width, 2))
    features = rng.normal(size=(samples, width)) + 5
    targets = features @ weights + [10, -3] + noise * rng.normal(size=(samples, 2))
    return features * np.logspace(-2, 2, width), targets


def test_a_plane_is_recovered():
    (features, targets), (unseen, truth) = plane(60), plane(40, seed=1)
    probe = fit_ridge(features, targets)
    assert probe.predict(unseen) == pytest.approx(truth, abs=1e-3)
    score = regression_score(probe.predict(unseen), truth)
    assert score.r2.estimate == pytest.approx(1, abs=1e-6)
    assert score.mae.low <= score.mae.estimate <= score.mae.high < 1e-3


def test_features_that_say_nothing_are_shrunk_away():
    rng = np.random.default_rng(0)
    features, targets = rng.normal(size=(100, 200)), rng.normal(size=100)
    probe = fit_ridge(features, targets)
    assert probe.strength >= 1
    score = regression_score(probe.predict(rng.normal(size=(300, 200))), rng.normal(size=300))
    assert -0.15 < score.r2.estimate < 0.05
    assert score.r2.low < 0


def test_the_left_out_error_is_that_of_leaving_each_sample_out():
    rng = np.random.default_rng(1)
    features, targets = rng.normal(size=(15, 4)), rng.normal(size=(15, 2))
    errors = []
    for held in range(15):
        kept = np.delete(np.arange(15), held)
        x, y = features[kept] - features[kept].mean(0), targets[kept] - targets[kept].mean(0)
        weights = np.linalg.solve(x.T @ x + 2.0 * np.eye(4), x.T @ y)
        guess = (features[held] - features[kept].mean(0)) @ weights + targets[kept].mean(0)
        errors.append((guess - targets[held]) ** 2)
    u, s, _ = _thin_svd(features - features.mean(0))
    assert _left_out_error(u, s, targets - targets.mean(0), penalty=2.0) == pytest.approx(np.mean(errors))


def test_the_strength_is_chosen_on_training_data_for_the_noise_there_is():
    few = [fit_ridge(*plane(20, noise=noise, seed=2)).strength for noise in (0.0, 30.0)]
    assert few[0] < few[1]
    assert fit_ridge(*plane(20), strengths=[0.5]).strength == 0.5


@pytest.mark.parametrize("shape", [(50, 8), (8, 50), (20, 20)])
def test_the_svd_of_the_smaller_gram_matrix_is_the_svd(shape):
    matrix = np.random.default_rng(3).normal(size=shape)
    u, s, v = _thin_svd(matrix)
    assert u * s @ v.T == pytest.approx(matrix)
    assert s == pytest.approx(np.linalg.svd(matrix, compute_uv=False))
    assert u.T @ u == pytest.approx(np.eye(len(s)), abs=1e-9)


def test_a_feature_constant_in_training_cannot_ruin_the_test():
    features, targets = plane(50)
    features = np.hstack([features, 0.1 + 1e-9 * targets[:, :1]])
    probe = fit_ridge(features, targets)
    moved = features.copy()
    moved[:, -1] = 1e6
    assert probe.predict(moved) == pytest.approx(probe.predict(features))
    nothing = fit_ridge(np.ones((50, 3)), targets)
    assert nothing.predict(np.ones((2, 3))) == pytest.approx(np.tile(targets.mean(0), (2, 1)))


def test_components_are_orthonormal_and_know_only_training_data():
    rng = np.random.default_rng(4)
    train = rng.normal(size=(40, 300)) * np.r_[10, 5, np.ones(298)]
    project = fit_pca(train, 5)
    assert project.components @ project.components.T == pytest.approx(np.eye(5), abs=1e-9)
    assert np.abs(project.components[0, 0]) > 0.9
    assert project(train).mean(0) == pytest.approx(np.zeros(5), abs=1e-9)
    assert (np.diff(project(train).var(0)) < 0).all()
    assert project(rng.normal(size=(7, 300))).shape == (7, 5)
    assert fit_pca(train, 40)(train)[:, 39].tolist() == [0.0] * 40  # 40 samples vary in 39 directions
    assert fit_pca(np.ones((9, 4)), 3)(np.ones((2, 4))).tolist() == [[0.0] * 3] * 2


def test_r2_and_mae_by_hand_whatever_the_offset():
    truth = np.array([[0.0], [1.0], [2.0], [3.0]])
    guess = truth + np.array([[0.5], [-0.5], [0.5], [-0.5]])
    for offset in (0.0, 1e5):
        score = regression_score(guess + offset, truth + offset)
        assert score.r2.estimate == pytest.approx(1 - 1 / 5)
        assert score.mae.estimate == pytest.approx(0.5)
        assert score.errors == pytest.approx(np.full(4, 0.5))
    assert regression_score(np.full(4, 1.5), truth).r2.estimate == 0


def test_frames_of_one_clip_widen_the_interval():
    rng = np.random.default_rng(5)
    clips = np.arange(10).repeat(30)
    truth = rng.normal(size=300)
    guess = truth + rng.normal(size=10)[clips]
    alone, together = (regression_score(guess, truth, groups=groups).mae for groups in (None, clips))
    assert together.high - together.low > 2 * (alone.high - alone.low)


def test_what_cannot_be_fitted_is_refused():
    with pytest.raises(UnderstudyError, match="a target each"):
        fit_ridge(np.ones((3, 2)), np.ones(4))
    with pytest.raises(UnderstudyError, match="finite"):
        fit_ridge(np.full((3, 2), np.nan), np.ones(3))
    with pytest.raises(UnderstudyError, match="same in all test samples"):
        regression_score(np.arange(3), np.ones(3))
    with pytest.raises(UnderstudyError, match="one prediction for each"):
        regression_score(np.ones((3, 2)), np.ones((3, 1)))
