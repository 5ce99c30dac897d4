"""The dock widget: what its controls do, and that a run blocks nothing and ends when it should.

The widget is tested with Qt and a viewer without a window, which needs no graphics. The last tests need a whole napari,
which needs OpenGL.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

REASON = "needs napari with Qt: make napari-test"
pytest.importorskip("napari", reason=REASON)
pytest.importorskip("pytestqt", reason=REASON)

from napari.components import ViewerModel
from napari.utils.notifications import notification_manager
from qtpy.QtWidgets import QApplication, QWidget

import self2self
from self2self.napari_plugin import settings as settings_module
from self2self.napari_plugin import widget as module
from self2self.napari_plugin.boxes import choose
from self2self.napari_plugin.settings import Settings, load_settings, save_settings
from self2self.napari_plugin.work import Outcome, Task
from tests.napari_plugin.parts import quick, values

__all__ = ["quick"]

WAIT = 600_000
"""Milliseconds after which something hangs; a fit on a busy machine takes a while."""


@pytest.fixture(autouse=True)
def _own_settings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(settings_module, "settings_file", lambda: tmp_path / "napari.json")


@pytest.fixture(autouse=True)
def _no_old_notifications() -> None:
    notification_manager.records.clear()


@pytest.fixture
def viewer() -> ViewerModel:
    return ViewerModel()


@pytest.fixture
def dock(qtbot: Any, viewer: ViewerModel) -> Callable[[], Any]:
    """Makes a widget that hears of layers, as napari's docks let it."""

    def make() -> Any:
        widget = module.DenoiseWidget(viewer)
        qtbot.addWidget(widget)
        events = viewer.layers.events
        for event in (events.inserted, events.removed, events.reordered, events.renamed):
            event.connect(widget.reset_choices)
        return widget

    return make


@pytest.fixture
def widget(dock: Callable[[], Any]) -> Any:
    return dock()


def finish(qtbot: Any, widget: Any) -> None:
    qtbot.waitUntil(lambda: widget._run is None, timeout=WAIT)


def errors() -> list[str]:
    return [note.message for note in notification_manager.records if str(note.severity) == "error"]


class Held:
    """Stands for `perform`: waits until it is let go, or cancelled."""

    def __init__(self) -> None:
        self.tasks: list[Task] = []
        self.go = threading.Event()
        self.ended = threading.Event()
        self.outcome: Callable[[Task], Outcome] = lambda task: Outcome(
            ((np.asarray(task.part.data[task.part.region]), {**task.part.attributes, "name": "done"}, "image"),), "done"
        )

    def __call__(self, task: Task, progress: Callable[[Any], None], cancel: threading.Event) -> Outcome:
        self.tasks.append(task)
        progress(self2self.Progress("fit", 3, 8))
        try:
            while not self.go.wait(0.01):
                if cancel.is_set():
                    return Outcome(message="cancelled")
            return self.outcome(task)
        finally:
            self.ended.set()


@pytest.fixture
def held(monkeypatch: pytest.MonkeyPatch) -> Iterator[Held]:
    held = Held()
    monkeypatch.setattr(module, "perform", held)
    yield held
    held.go.set()


def test_the_manifest_names_what_is_there() -> None:
    npe2 = pytest.importorskip("npe2")
    manifest = npe2.PluginManifest.from_file(Path(self2self.__file__).parent / "napari_plugin" / "napari.yaml")
    manifest.validate_imports()


@pytest.mark.usefixtures("quick")
def test_a_stack_is_denoised_as_from_python(viewer: ViewerModel, widget: Any, qtbot: Any) -> None:
    from tests.arrays.arrays import NO_STEPS

    data = values((2, 40, 48))
    layer = viewer.add_image(
        data, name="cells", scale=(3, 2, 2), units=("um",) * 3, colormap="green", metadata={"a": 1}
    )
    choose(widget.scope_choice, "planes")
    widget.uncertainty.setChecked(True)
    widget.passes.setValue(2)
    widget.denoise_button.click()
    assert not widget.denoise_button.isEnabled() and widget.cancel_button.isEnabled()
    finish(qtbot, widget)
    assert errors() == []
    assert [each.name for each in viewer.layers] == ["cells", "cells denoised: uncertainty", "cells denoised"]
    result = self2self.denoise(data, axes="TYX", passes=2, uncertainty=True, fit_options=NO_STEPS)
    np.testing.assert_array_equal(viewer.layers["cells denoised"].data, result.image)
    np.testing.assert_array_equal(viewer.layers["cells denoised: uncertainty"].data, result.uncertainty)
    for name in ("cells denoised", "cells denoised: uncertainty"):
        assert viewer.layers[name].units == layer.units
        np.testing.assert_array_equal(viewer.layers[name].scale, layer.scale)
        assert viewer.layers[name].metadata["a"] == 1
    assert viewer.layers["cells denoised"].colormap.name == "green"
    assert "noise found" in widget.status.text()
    assert widget.denoise_button.isEnabled() and not widget.cancel_button.isEnabled()


@pytest.mark.parametrize("data", [np.zeros((1, 50)), np.zeros((20, 20), bool)])
def test_an_error_is_one_line(viewer: ViewerModel, widget: Any, qtbot: Any, data: np.ndarray) -> None:
    viewer.add_image(data, name="odd")
    widget.denoise_button.click()
    finish(qtbot, widget)
    (message,) = errors()
    assert message == widget.status.text()
    assert message.startswith("odd: ") and "\n" not in message
    assert len(viewer.layers) == 1
    assert widget.denoise_button.isEnabled()


def test_a_bug_is_shown_by_napari(viewer: ViewerModel, widget: Any, held: Held, qtbot: Any) -> None:
    def broken(task: Task) -> Outcome:
        raise ZeroDivisionError("a bug")

    held.outcome = broken
    held.go.set()
    viewer.add_image(values((40, 48)))
    with qtbot.captureExceptions() as raised:
        widget.denoise_button.click()
        finish(qtbot, widget)
        qtbot.waitUntil(lambda: bool(raised), timeout=WAIT)
    assert [kind for kind, *_ in raised] == [ZeroDivisionError]
    assert "a bug" in widget.status.text()
    assert widget.denoise_button.isEnabled()


def test_an_empty_viewer_and_layers_that_are_no_images(viewer: ViewerModel, widget: Any) -> None:
    assert widget.layer is None
    assert not any(button.isEnabled() for button in (widget.denoise_button, widget.preview_button, widget.draw_button))
    viewer.add_labels(np.zeros((20, 20), int))
    viewer.add_points(np.zeros((2, 2)))
    assert widget.layer is None
    layer = viewer.add_image(values((40, 48)))
    assert widget.layer is layer and widget.denoise_button.isEnabled()
    viewer.layers.remove(layer)
    assert widget.layer is None and not widget.denoise_button.isEnabled()


def test_the_choice_of_layer_stays_while_layers_come_go_and_are_renamed(viewer: ViewerModel, widget: Any) -> None:
    first = viewer.add_image(values((40, 48)), name="first")
    second = viewer.add_image(values((3, 40, 48)), name="second")
    assert widget.layer is first and not widget.scope_choice.isEnabled()
    choose(widget.layer_choice, second)
    assert widget.scope_choice.isEnabled()
    second.name = "renamed"
    assert widget.layer_choice.currentText() == "renamed"
    viewer.layers.move(0, 2)
    assert widget.layer is second
    viewer.layers.remove(second)
    assert widget.layer is first


def test_the_active_image_is_chosen_first(viewer: ViewerModel, dock: Callable[[], Any]) -> None:
    first = viewer.add_image(values((40, 48)))
    viewer.add_image(values((40, 48)))
    viewer.layers.selection.active = first
    assert dock().layer is first


def test_channels_are_found_by_the_label_of_the_axis(viewer: ViewerModel, widget: Any, held: Held, qtbot: Any) -> None:
    layer = viewer.add_image(values((2, 3, 40, 48)), axis_labels=("t", "c", "y", "x"))
    assert widget.channel_choice.currentData() == 1
    assert "c" in widget.channel_choice.currentText() and "3" in widget.channel_choice.currentText()
    choose(widget.scope_choice, "each")
    held.go.set()
    widget.denoise_button.click()
    finish(qtbot, widget)
    choose(widget.layer_choice, layer)
    choose(widget.scope_choice, "plane")
    viewer.dims.set_current_step(1, 2)
    widget.denoise_button.click()
    finish(qtbot, widget)
    (planes, plane) = held.tasks
    assert (planes.part.channel, planes.settings.scope) == (1, "each")
    assert (plane.part.channel, plane.part.region[1]) == (None, slice(2, 3))


def test_the_channels_of_one_layer_are_not_those_of_another(viewer: ViewerModel, widget: Any) -> None:
    labelled = viewer.add_image(values((2, 3, 40, 48)), axis_labels=("t", "c", "y", "x"))
    other = viewer.add_image(values((2, 3, 40, 48)))
    choose(widget.channel_choice, None)
    other.name = "renamed"
    assert widget.channel_choice.currentData() is None
    choose(widget.channel_choice, 1)
    choose(widget.layer_choice, other)
    assert widget.channel_choice.currentData() is None
    choose(widget.layer_choice, labelled)
    assert widget.channel_choice.currentData() == 1


def test_a_preview_on_a_drawn_rectangle_replaces_the_last_preview(
    viewer: ViewerModel, widget: Any, held: Held, qtbot: Any
) -> None:
    layer = viewer.add_image(values((3, 40, 48)), scale=(5, 0.5, 0.5), translate=(0, 7, 7), units=("um",) * 3)
    viewer.dims.set_current_step(0, 1)
    widget.draw_button.click()
    shapes = viewer.layers.selection.active
    assert shapes.mode == "add_rectangle"
    shapes.add_rectangles([[1, y, x] for y, x in ((9.6, 19.6), (9.6, 39.4), (29.4, 39.4), (29.4, 19.6))])
    held.go.set()
    for _ in range(2):
        widget.preview_button.click()
        finish(qtbot, widget)
        assert errors() == []
        assert [type(each).__name__ for each in viewer.layers] == ["Image", "Shapes", "Image"]
    assert held.tasks[0].preview
    assert held.tasks[0].part.region == (slice(1, 2), slice(10, 30), slice(20, 40))
    preview = viewer.layers[-1]
    np.testing.assert_allclose(preview.data_to_world((0, 0, 0)), layer.data_to_world((1, 10, 20)))
    widget.draw_button.click()
    assert viewer.layers.selection.active is shapes


def test_a_preview_of_the_view_needs_no_rectangle(viewer: ViewerModel, widget: Any, held: Held, qtbot: Any) -> None:
    viewer.add_image(values((40, 48)))
    held.go.set()
    widget.preview_button.click()
    finish(qtbot, widget)
    assert held.tasks[0].part.region == (slice(0, 40), slice(0, 48))
    viewer.add_shapes(name="empty")
    choose(widget.preview_choice, viewer.layers["empty"])
    widget.preview_button.click()
    assert errors() == ["empty: has no rectangle. Draw one on the image."]


def test_a_view_in_3d_has_no_plane(viewer: ViewerModel, widget: Any) -> None:
    viewer.add_image(values((3, 40, 48)))
    viewer.dims.ndisplay = 3
    widget.denoise_button.click()
    assert "3-D" in errors()[0]
    assert widget._run is None


def test_progress_is_shown_and_the_run_can_be_cancelled(
    viewer: ViewerModel, widget: Any, held: Held, qtbot: Any
) -> None:
    viewer.add_image(values((40, 48)))
    widget.denoise_button.click()
    qtbot.waitUntil(lambda: "fit: step 3 of 8" in widget.status.text(), timeout=WAIT)
    assert (widget.progress_bar.value(), widget.progress_bar.maximum()) == (3, 8)
    widget.cancel_button.click()
    finish(qtbot, widget)
    assert widget.status.text() == "cancelled"
    assert errors() == [] and len(viewer.layers) == 1
    # At once.
    widget.denoise_button.click()
    widget.cancel_button.click()
    finish(qtbot, widget)
    assert widget.status.text() == "cancelled"


def test_a_layer_that_goes_while_it_is_denoised(viewer: ViewerModel, widget: Any, held: Held, qtbot: Any) -> None:
    layer = viewer.add_image(values((40, 48)))
    widget.denoise_button.click()
    qtbot.waitUntil(lambda: bool(held.tasks), timeout=WAIT)
    viewer.layers.remove(layer)
    held.go.set()
    finish(qtbot, widget)
    assert errors() == []
    assert [each.name for each in viewer.layers] == ["done"]


def test_two_widgets_run_by_turns(viewer: ViewerModel, dock: Callable[[], Any], held: Held, qtbot: Any) -> None:
    viewer.add_image(values((40, 48)))
    widgets = [dock(), dock()]
    for widget in widgets:
        widget.denoise_button.click()
    held.go.set()
    for widget in widgets:
        finish(qtbot, widget)
    assert len(viewer.layers) == 3 and errors() == []


@pytest.mark.parametrize("goes", ["deleted", "taken out"])
def test_a_widget_that_goes_ends_its_run(viewer: ViewerModel, held: Held, qtbot: Any, goes: str) -> None:
    viewer.add_image(values((40, 48)))
    window = QWidget()
    qtbot.addWidget(window)
    widget = module.DenoiseWidget(viewer)
    widget.setParent(window)
    widget.denoise_button.click()
    qtbot.waitUntil(lambda: bool(held.tasks), timeout=WAIT)
    if goes == "deleted":
        widget.deleteLater()
    else:
        widget.setParent(None)
    qtbot.waitUntil(held.ended.is_set, timeout=WAIT)
    qtbot.wait(50)
    assert not held.go.is_set() and errors() == []
    assert len(viewer.layers) == 1


def test_the_settings_of_the_last_run_come_back(
    viewer: ViewerModel, dock: Callable[[], Any], held: Held, qtbot: Any
) -> None:
    save_settings(Settings("each", uncertainty=True, strength=0.5, passes=40, scratch=True, seed=7))
    widget = dock()
    assert widget.settings() == load_settings() == Settings("each", True, 0.5, 40, True, 7)
    viewer.add_image(values((40, 48)))
    widget.strength.setValue(1.5)
    widget.sigma.setValue(12)
    assert load_settings().strength == 0.5
    held.go.set()
    widget.denoise_button.click()
    finish(qtbot, widget)
    assert load_settings() == Settings("each", True, 1.5, 40, True, 7)
    assert held.tasks[0].sigma == 12


@pytest.fixture
def napari_window(qapp: Any, request: pytest.FixtureRequest) -> Any:
    if QApplication.platformName() == "offscreen":
        pytest.skip("Qt's platform offscreen has no OpenGL; make napari-test uses xvfb-run where it is there")
    return request.getfixturevalue("make_napari_viewer")()


@pytest.mark.usefixtures("quick")
def test_in_napari_itself(napari_window: Any, qtbot: Any) -> None:
    viewer = napari_window
    _, widget = viewer.window.add_plugin_dock_widget("self2self", "Denoise")
    viewer.open_sample("self2self", "noisy_photograph")
    assert widget.layer is viewer.layers[0]
    widget.passes.setValue(2)
    widget.draw_button.click()
    viewer.layers[1].add_rectangles([[9.6, 19.6], [49.4, 69.4]])
    widget.preview_button.click()
    finish(qtbot, widget)
    assert errors() == []
    assert [layer.name for layer in viewer.layers] == [
        "noisy photograph",
        "preview rectangle",
        "noisy photograph preview",
    ]
    preview = viewer.layers[2]
    assert preview.data.shape == (40, 50, 3)
    np.testing.assert_array_equal(preview.translate, (10, 20))


@pytest.mark.parametrize("close", ["window", "dock"])
def test_closing_cancels(napari_window: Any, held: Held, qtbot: Any, close: str) -> None:
    viewer = napari_window
    dock, widget = viewer.window.add_plugin_dock_widget("self2self", "Denoise")
    viewer.add_image(values((40, 48)))
    widget.denoise_button.click()
    qtbot.waitUntil(lambda: bool(held.tasks), timeout=WAIT)
    if close == "window":
        viewer.close()
    else:
        dock.destroyOnClose()
    qtbot.waitUntil(held.ended.is_set, timeout=WAIT)
    qtbot.wait(50)
    assert not held.go.is_set()
    assert errors() == []
