"""The dock widget: controls, and a run in another thread that they start, follow and cancel."""

from __future__ import annotations

import threading
import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from napari.layers import Image, Layer, Shapes
from napari.qt.threading import create_worker
from napari.utils.notifications import show_error
from qtpy.QtCore import QEvent, Qt, QTimer
from qtpy.QtWidgets import (
    QCheckBox,
    QDoubleSpinBox,
    QHBoxLayout,
    QLabel,
    QProgressBar,
    QPushButton,
    QSpinBox,
    QVBoxLayout,
    QWidget,
)

from self2self.errors import Self2SelfError, UsageError
from self2self.napari_plugin import selection
from self2self.napari_plugin.boxes import choice, choose, form, group, number, offer
from self2self.napari_plugin.settings import (
    LARGEST_PASSES,
    LARGEST_SEED,
    LIMITS,
    Settings,
    load_settings,
    save_settings,
)
from self2self.napari_plugin.work import Outcome, Task, perform

if TYPE_CHECKING:
    import napari.viewer

    from self2self.arrays.progress import Progress

POLL_MILLISECONDS = 100
SCOPE_NAMES = {
    "plane": "the plane in view",
    "planes": "all planes, one fit",
    "each": "all planes, a fit for each",
}
BY_THE_PROGRAM = "automatic"
"""What a number shows that the program finds."""
LARGEST_SIGMA = 1e9
VIEW = "the middle of the view"
RECTANGLES = "preview rectangle"
"""Name of the layer in which the widget lets draw a rectangle."""


@dataclass(slots=True)
class _Run:
    """A run at work.

    Attributes:
        preview: whether its result is a preview.
        cancel: ends it.
        progress: the latest, written by the thread of the run; None before the first step.
        since: time and steps done when the current phase began.
    """

    preview: bool
    cancel: _Cancel
    progress: Progress | None = None
    since: tuple[str, float, int] = field(default=("", 0.0, 0))

    def report(self, progress: Progress) -> None:
        """Take the progress from the thread of the run."""
        self.progress = progress


class _Cancel(threading.Event):
    """Set by the user, or by napari, which asks its workers to end when the program ends."""

    worker: Any = None

    def is_set(self) -> bool:
        return super().is_set() or (self.worker is not None and self.worker.abort_requested)


class DenoiseWidget(QWidget):
    """Denoise an image layer: the plane in view, or all planes, with a preview.

    Args:
        napari_viewer: the viewer that the widget belongs to.
    """

    def __init__(self, napari_viewer: napari.viewer.Viewer) -> None:
        super().__init__()
        self._viewer = napari_viewer
        self._run: _Run | None = None
        self._preview_layers: list[Layer] = []
        self._layer_with_channels: Image | None = None
        self._build()
        self._timer = QTimer(self)
        self._timer.setInterval(POLL_MILLISECONDS)
        self._timer.timeout.connect(self._show_progress)
        self._show_settings(load_settings())
        self.reset_choices()
        active = napari_viewer.layers.selection.active
        if isinstance(active, Image):
            choose(self.layer_choice, active)

    # Controls

    def _build(self) -> None:
        self.layer_choice = choice("The image layer to denoise. It is not changed: the result is a new layer.")
        self.layer_choice.currentIndexChanged.connect(self._layer_chosen)
        self.scope_choice = choice("What of the layer is denoised.", SCOPE_NAMES)
        self.channel_choice = choice(
            "The axis that holds channels. Channels whose noise differs are fitted apart. It counts for all planes."
        )
        self.uncertainty = QCheckBox("uncertainty as a second layer")
        self.uncertainty.setToolTip("Standard deviation over many passes, in the units of the image. It takes longer.")
        what = form(
            ("Image", self.layer_choice),
            ("Denoise", self.scope_choice),
            ("Channels", self.channel_choice),
            ("", self.uncertainty),
        )

        tip = "Below 1, a part of the noise stays; above 1, more is removed."
        self.strength = number(QDoubleSpinBox(), LIMITS["strength"], tip)
        self.strength.setSingleStep(0.1)
        tip = "Standard deviation of the noise, in the units of the image."
        self.sigma = number(QDoubleSpinBox(), LARGEST_SIGMA, tip)
        self.sigma.setDecimals(4)
        self.passes = number(QSpinBox(), LARGEST_PASSES, "Number of predictions that are averaged.")
        self.seed = number(QSpinBox(), LARGEST_SEED, "The same seed gives the same result.")
        for box in (self.sigma, self.passes):
            box.setSpecialValueText(BY_THE_PROGRAM)
        self.scratch = QCheckBox("learn from this image alone")
        self.scratch.setToolTip("Without the weights that were fitted to other photographs. It takes longer.")
        how = form(
            ("Strength", self.strength),
            ("Noise \N{GREEK SMALL LETTER SIGMA}", self.sigma),
            ("Passes", self.passes),
            ("Seed", self.seed),
            ("", self.scratch),
        )

        self.preview_choice = choice("Where to try the settings: in the view, or in a rectangle of a Shapes layer.")
        self.draw_button = QPushButton("Draw")
        self.draw_button.setToolTip("Draw a rectangle on the image for the preview.")
        self.draw_button.clicked.connect(self._draw)
        self.preview_button = QPushButton("Preview")
        self.preview_button.clicked.connect(self._preview)
        where = QHBoxLayout()
        where.addWidget(self.preview_choice, 1)
        where.addWidget(self.draw_button)
        preview = QVBoxLayout()
        preview.addLayout(where)
        preview.addWidget(self.preview_button)

        self.denoise_button = QPushButton("Denoise")
        self.denoise_button.clicked.connect(self._denoise)
        self.cancel_button = QPushButton("Cancel")
        self.cancel_button.clicked.connect(self._cancel)
        buttons = QHBoxLayout()
        buttons.addWidget(self.denoise_button, 2)
        buttons.addWidget(self.cancel_button, 1)
        self.progress_bar = QProgressBar()
        self.progress_bar.setTextVisible(False)
        self.status = QLabel()
        self.status.setWordWrap(True)
        self.status.setTextInteractionFlags(Qt.TextInteractionFlag.TextSelectableByMouse)

        layout = QVBoxLayout(self)
        layout.addLayout(what)
        layout.addWidget(group("Settings", how))
        layout.addWidget(group("Preview", preview))
        layout.addLayout(buttons)
        layout.addWidget(self.progress_bar)
        layout.addWidget(self.status)
        layout.addStretch(1)
        self._set_running(False)

    def event(self, event: Any) -> bool:
        """End the run when the dock is closed: napari then takes the widget out of its window."""
        if event.type() == QEvent.Type.ParentChange and self.parent() is None:
            self._cancel()
        return bool(super().event(event))

    def reset_choices(self, event: Any = None) -> None:
        """Offer the layers that the viewer has now; napari calls this when they change."""
        layers = list(self._viewer.layers)
        offer(self.layer_choice, [(layer.name, layer) for layer in layers if isinstance(layer, Image)], last=True)
        shapes = [(layer.name, layer) for layer in layers if isinstance(layer, Shapes)]
        offer(self.preview_choice, [(VIEW, None), *shapes])
        self._layer_chosen()

    def _layer_chosen(self) -> None:
        layer = self.layer
        axes = [] if layer is None or layer.rgb or layer.ndim < 3 else list(range(layer.ndim))
        offer(self.channel_choice, [("none", None), *((_axis_name(layer, axis), axis) for axis in axes)])
        if layer is not self._layer_with_channels:
            # What was chosen for another layer says nothing of this one.
            choose(self.channel_choice, selection.channel_axis_of(layer) if axes else None)
            self._layer_with_channels = layer
        self.channel_choice.setEnabled(bool(axes))
        self.scope_choice.setEnabled(layer is not None and layer.ndim > 2)
        self._set_running(self._run is not None)

    @property
    def layer(self) -> Image | None:
        """The chosen layer; None if the viewer has no image."""
        return self.layer_choice.currentData()

    def settings(self) -> Settings:
        """The settings that the controls show."""
        return Settings(
            scope=self.scope_choice.currentData(),
            uncertainty=self.uncertainty.isChecked(),
            strength=self.strength.value(),
            passes=self.passes.value(),
            scratch=self.scratch.isChecked(),
            seed=self.seed.value(),
        )

    def _show_settings(self, settings: Settings) -> None:
        choose(self.scope_choice, settings.scope)
        self.uncertainty.setChecked(settings.uncertainty)
        self.strength.setValue(settings.strength)
        self.passes.setValue(settings.passes)
        self.scratch.setChecked(settings.scratch)
        self.seed.setValue(settings.seed)

    # What the buttons do

    def _denoise(self) -> None:
        self._begin(preview=False)

    def _preview(self) -> None:
        self._begin(preview=True)

    def _draw(self) -> None:
        """Let the user draw a rectangle, in a layer that lies as the image does."""
        layer = self.layer
        if layer is None:
            return
        drawn = (each for each in self._viewer.layers if isinstance(each, Shapes) and each.name == RECTANGLES)
        shapes = next(drawn, None)
        if shapes is None:
            place = selection.whole(layer).placement
            shapes = Shapes(ndim=layer.ndim, name=RECTANGLES, face_color="transparent", edge_color="yellow", **place)
            self._viewer.add_layer(shapes)
        self._viewer.layers.selection.active = shapes
        shapes.mode = "add_rectangle"
        choose(self.preview_choice, shapes)
        self.status.setText("Draw a rectangle on the image, then press Preview.")

    def _cancel(self) -> None:
        if self._run is not None:
            self._run.cancel.set()
            self.status.setText("cancelling after the current step")

    def _task(self, preview: bool) -> Task:
        """What the controls say is to do.

        Raises:
            Self2SelfError: there is nothing to denoise.
        """
        layer, settings = self.layer, self.settings()
        if layer is None:
            raise UsageError("the viewer has no image layer. Open an image.")
        if preview:
            plane = selection.plane_in_view(layer, self._viewer)
            shapes = self.preview_choice.currentData()
            if shapes is None:
                part = selection.rectangle_in_view(plane, layer)
            else:
                part = selection.rectangle_of_shape(plane, layer, shapes, self._viewer)
        elif settings.scope == "plane" and layer.ndim > 2:
            part = selection.plane_in_view(layer, self._viewer)
        else:
            part = selection.whole(layer, self.channel_choice.currentData())
        return Task(part, settings, self.sigma.value() or None, preview)

    def _begin(self, preview: bool) -> None:
        if self._run is not None:
            return
        try:
            task = self._task(preview)
        except Self2SelfError as error:
            self._say(str(error), failed=True)
            return
        save_settings(task.settings)
        cancel = _Cancel()
        self._run = run = _Run(preview, cancel)
        worker = create_worker(perform, task, run.report, cancel, _start_thread=False)
        cancel.worker = worker
        worker.returned.connect(self._finished)
        worker.errored.connect(self._broke)
        # Also when the window is closed while other windows stay.
        self.destroyed.connect(cancel.set)
        self._set_running(True)
        self.status.setText("preparing")
        self._timer.start()
        worker.start()

    # What a run does

    def _show_progress(self) -> None:
        run = self._run
        if run is None or run.progress is None or run.cancel.is_set():
            return
        at, now = run.progress, time.monotonic()
        if run.since[0] != at.where:
            run.since = at.where, now, at.done
        self.progress_bar.setRange(0, at.total)
        self.progress_bar.setValue(at.done)
        unit = "step" if at.phase == "fit" else "pass"
        text = f"{at.where}: {unit} {at.done} of {at.total}"
        seconds, steps = now - run.since[1], at.done - run.since[2]
        if at.phase == "fit" and seconds > 1 and steps:
            text += f", about {seconds / steps * (at.total - at.done):.0f} s left"
        self.status.setText(text)

    def _finished(self, outcome: Outcome) -> None:
        run = self._end()
        self._say("\n".join([outcome.message, *outcome.notes]), outcome.failed)
        if not outcome.layers:
            return
        if run is not None and run.preview:
            for layer in self._preview_layers:
                if layer in self._viewer.layers:
                    self._viewer.layers.remove(layer)
        added = [self._viewer.add_layer(Layer.create(*layer)) for layer in outcome.layers]
        if run is not None and run.preview:
            self._preview_layers = added

    def _broke(self, error: Exception) -> None:
        """A bug: napari shows the exception."""
        self._end()
        self._say(f"{type(error).__name__}: {error}")

    def _end(self) -> _Run | None:
        run, self._run = self._run, None
        self._timer.stop()
        self._set_running(False)
        return run

    def _say(self, text: str, failed: bool = False) -> None:
        self.status.setText(text)
        if failed:
            show_error(text)

    def _set_running(self, running: bool) -> None:
        for button in (self.denoise_button, self.preview_button):
            button.setEnabled(not running and self.layer is not None)
        self.draw_button.setEnabled(self.layer is not None)
        self.cancel_button.setEnabled(running)
        if running and self._run is not None and self._run.progress is None:
            # No range: the bar moves to and fro.
            self.progress_bar.setRange(0, 0)
        elif not running:
            self.progress_bar.setRange(0, 1)
            self.progress_bar.setValue(0)


def _axis_name(layer: Image, axis: int) -> str:
    data = layer.data[0] if layer.multiscale else layer.data
    return f"axis {axis} ({layer.axis_labels[axis]}): {data.shape[axis]}"
