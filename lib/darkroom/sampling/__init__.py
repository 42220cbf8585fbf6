"""The reverse process in pure torch: no Ray, no files. What others use, by module:

engine             `Engine`, `Predictor`, `Finished`, `Failed`: walks many plans at once, in passes of one capacity
run                `walk_plans`: plans walked to their end in this process
plans              `Stage`, `Inputs`, `Plan`, `make_plan`, `condition_keys`, `goes_through`, `SAMPLER_VERSION`: what a
                   row asks for, as start state, moves, branches and constraint
processes          `Process`, `Diffusion`, `Flow`, `process_from_config`: what noise does to a picture
levels             `timesteps`, `DEFAULT_STRIDE`: which times a walk stands at
schedules          `Move`: how it gets from one to the next
views, components  `View`, `make_view`, `Component`, `make_component`: what illusions are made of
names              `nearest`, `unknown`: what is said of a name that nobody knows
"""

from darkroom.front_door import front_door

__getattr__, __dir__, __all__ = front_door(
    __name__,
    {
        "engine": ("Engine", "Failed", "Finished", "Predictor"),
        "run": ("walk_plans",),
        "plans": (
            "SAMPLER_VERSION", "Inputs", "Plan", "Stage", "condition_keys", "goes_through", "make_plan",
        ),
        "processes": ("Diffusion", "Flow", "Process", "process_from_config"),
        "levels": ("DEFAULT_STRIDE", "timesteps"),
        "schedules": ("Move",),
        "views": ("View", "make_view"),
        "components": ("Component", "make_component"),
        "names": ("nearest", "unknown"),
    },
)  # fmt: skip
