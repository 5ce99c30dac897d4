"""Keep one prepared engine for many images or tiles of one size.

Preparing an engine takes seconds; giving it another image takes little or no time.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Self

from self2self.runtime.engines.engine import Engine, FloatArray
from self2self.runtime.ensemble.host_loop import PassTooLarge
from self2self.runtime.model import Model


class EngineHolder:
    """Keeps an engine from one image, or tile, to the next of the same size; use it as a context manager."""

    def __init__(self) -> None:
        self._engine: Engine | None = None

    def engine_for(
        self,
        kind: type[Engine],
        model: Model,
        image: FloatArray,
        on_note: Callable[[str], None],
        whole: FloatArray | None = None,
    ) -> Engine:
        """Return an engine of class `kind` that is prepared for `image`, float32 [1, C, H, W].

        Args:
            kind: class of the engine.
            model: the model to run.
            image: the image, or a tile of `whole`.
            on_note: gets what the user should know.
            whole: `Engine.whole_image`.

        Raises:
            Self2SelfError: as for `Engine` and its `prepare`.
            PassTooLarge: memory is too short for a kept engine to take `image`.
        """
        kept = self._engine
        if kept is not None and type(kept) is kind and kept.model is model and kept.image.shape == image.shape:
            kept.whole_image = whole
            try:
                kept.set_image(image)
            except MemoryError as error:
                self.close()
                raise PassTooLarge(
                    "out of memory: the engine does not fit. Close other programs or denoise a smaller image."
                ) from error
        else:
            # Close the old engine first, because two engines may not fit into memory.
            self.close()
            engine = kind(model, image)
            engine.note = on_note
            engine.whole_image = whole
            self._engine = kept = engine.__enter__()
        kept.note = on_note
        return kept

    def close(self) -> None:
        """Release the engine; safe to call twice."""
        engine, self._engine = self._engine, None
        if engine is not None:
            engine.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()
