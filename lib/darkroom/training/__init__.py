"""Data sets, and networks trained from scratch on them. What others use, by module:

job                `train`: the job `darkroom train`; Ray Train itself is in `distributed` alone
recipes            `RECIPES`, `find_recipe`: what can be trained; `Recipe`, `with_settings`: what each says, and `--set`
ingest             `INGESTERS`: kinds of data sets and how each is read
data               `Images`, `load_images`, `read_record`, `sample_uri`: an ingested data set
objectives         `Objective`: what a network is trained to minimise
checkpoints        `Checkpoint`, `load_checkpoint`, `epochs_kept`: a training after each epoch
"""

from darkroom.front_door import front_door

__getattr__, __dir__, __all__ = front_door(
    __name__,
    {
        "job": ("train",),
        "recipes": ("RECIPES", "find_recipe"),
        "recipes.recipe": ("Recipe", "with_settings"),
        "ingest": ("INGESTERS",),
        "data": ("Images", "load_images", "read_record", "sample_uri"),
        "objectives": ("Objective",),
        "checkpoints": ("Checkpoint", "epochs_kept", "load_checkpoint"),
    },
)
