"""How good a model is, measured by its pictures. What others use, by module:

network            `evaluate_network`, `Sampling`, `Evaluation`: a trained network against a data set
cascade            `sample_and_judge`, `CascadeEvaluation`: a cascade of painted digits
illusions          `sample_illusions`, `IllusionEvaluation`: what such a cascade paints that reads in two ways
textures           `sample_textures`, `TextureEvaluation`: stripes, dots, checks and small digits of such a cascade
recognition        `misfit`, `why_not_judged`: whether a classifier can judge a data set's pictures
distances          `frechet_distance`, `precision_and_recall`, `nearest`, `bootstrap_interval`
denoising          `psnr`, `psnr_table`, `noised`, `SIGMAS`: what a denoiser cleans
validation         `validation_loss`: the loss on held-out pictures, alike for every model
"""

from darkroom.front_door import front_door

__getattr__, __dir__, __all__ = front_door(
    __name__,
    {
        "network": ("Evaluation", "Sampling", "evaluate_network"),
        "cascade": ("CascadeEvaluation", "sample_and_judge"),
        "illusions": ("IllusionEvaluation", "sample_illusions"),
        "textures": ("TextureEvaluation", "sample_textures"),
        "recognition": ("misfit", "why_not_judged"),
        "distances": ("bootstrap_interval", "frechet_distance", "nearest", "precision_and_recall"),
        "denoising": ("SIGMAS", "noised", "psnr", "psnr_table"),
        "validation": ("validation_loss",),
    },
)
