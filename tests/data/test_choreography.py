"""The suites beside `motion`: what their classes share, and what tells them apart."""

import numpy as np
import pytest

from vidjax.data import choreography, motion


def plan(n, length=12):
    return motion.scene(7, "train", n, (length, length)) | {"noise": 0.0}


@pytest.mark.parametrize("n", range(4))
def test_two_shapes_move_against_one_another_and_a_frame_does_not_say_how(n):
    scene = plan(n)
    films = {
        label: motion.draw(scene, label, 48, "correspondence") for label in choreography.SUITES["correspondence"][0]
    }
    for film in films.values():  # the frame in which all classes agree
        np.testing.assert_array_equal(film[scene["reference"]], films["red_left"][scene["reference"]])
    for label in films:
        red, blue = choreography.two_move(scene, label)
        steps = [np.diff(layer["states"][:, :2], axis=0) for layer in (red, blue)]
        span = np.diff(choreography.RANGES[:2], axis=1).T
        steps = [(step + span / 2) % span - span / 2 for step in steps]  # around the ends of the range
        np.testing.assert_allclose(steps[0], -steps[1], atol=1e-9)
        axis, sign = {"left": (0, -1), "right": (0, 1), "up": (1, -1), "down": (1, 1)}[label.removeprefix("red_")]
        assert (np.sign(steps[0][:, axis]) == sign).all()
        apart = np.linalg.norm(red["states"][:, :2] - blue["states"][:, :2], axis=1)
        assert apart.min() > np.exp(red["states"][0, 3]) + np.exp(blue["states"][0, 3]) - 0.02


def test_red_is_red_and_blue_is_blue():
    film = motion.draw(plan(1), "red_up", 96, "correspondence").astype(int)
    more = film[..., 0] - film[..., 2]
    red, blue = (more > 60).sum((1, 2)), (more < -60).sum((1, 2))
    assert (red > 50).all()
    assert (blue > 50).all()


@pytest.mark.parametrize("length", [8, 12, 16])
def test_an_order_shows_each_form_a_third_of_the_time(length):
    for label in choreography.SUITES["order"][0]:
        layers = choreography.one_changes(plan(3, length), label)
        shown = np.array([layer["shown"] for layer in layers])
        assert (shown.sum(0) == 1).all()
        assert (np.abs(shown.sum(1) - length / 3) <= 1.5).all()
        first = shown.argmax(1)
        assert [layers[i]["shape"] for i in np.argsort(first)] == label.split("_")


def test_a_folder_of_another_suite_is_refused(tmp_path):
    motion.render(tmp_path / "suite", train=6, evaluation=6, frames=8, suite="order")
    with pytest.raises(ValueError, match="with suite order, not None"):
        motion.render(tmp_path / "suite", train=6, evaluation=6, frames=8, classes=choreography.SUITES["order"][0][:0])
    with pytest.raises(ValueError, match="motion: suite is one of motion, correspondence, order, not 'sort'"):
        motion.render(tmp_path / "other", suite="sort")
    assert sorted(path.name for path in (tmp_path / "suite" / "train").iterdir()) == sorted(
        choreography.SUITES["order"][0]
    )
