"""Pictures of results, on pages that open from disk and as PNGs. What others use, by module:

page               `write_report`: a run's page, its tiles, contact sheets and animations
training           `write_training_report`: a training's page: curves and samples by epoch
evaluation         `write_evaluation`: an evaluation's page
cascade            `write_cascade_evaluation`: the sheets of an evaluated cascade
ticks              `write_ticks_page`: a pipeline's page: what each tick found and decided
grids, sheets      `draw_grid`, `draw_sheet`: contact sheets, with words for rows and columns or below each picture
"""

from darkroom.front_door import front_door

__getattr__, __dir__, __all__ = front_door(
    __name__,
    {
        "page": ("write_report",),
        "training": ("write_training_report",),
        "evaluation": ("write_evaluation",),
        "cascade": ("write_cascade_evaluation",),
        "ticks": ("write_ticks_page",),
        "grids": ("draw_grid",),
        "sheets": ("draw_sheet",),
    },
)
