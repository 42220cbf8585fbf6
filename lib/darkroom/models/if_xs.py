"""The architecture of `if-xs`: DeepFloyd IF's own classes, at a size that a CPU trains in an hour.

Stage I paints 24 x 24 pixels from a prompt, stage II makes 48 x 48 of them with the low-resolution picture as three
more input channels. Both predict v and a learned-range variance (6 output channels); IF itself predicts epsilon.
"""

from __future__ import annotations

from diffusers import DDPMScheduler, UNet2DConditionModel
from tokenizers import Regex, Tokenizer, models, normalizers, pre_tokenizers, processors
from transformers import PreTrainedTokenizerFast, T5Config, T5EncoderModel

TEXT_LENGTH = 12  # positions a prompt fills, padding included; IF attends to all of them, and so does if-xs
TEXT_WIDTH = 64
STAGE_SIZES = (24, 48)


def build_unet(stage: int) -> UNet2DConditionModel:
    """A stage's UNet with random weights. I: [B, 3, 24, 24] -> [B, 6, 24, 24]; II: [B, 6, 48, 48] -> [B, 6, 48, 48]."""
    plain, crossed = "ResnetDownsampleBlock2D", "SimpleCrossAttnDownBlock2D"
    plain_up, crossed_up = "ResnetUpsampleBlock2D", "SimpleCrossAttnUpBlock2D"
    shape = {
        1: dict(
            in_channels=3,
            block_out_channels=(16, 32, 64),
            down_block_types=(plain, crossed, crossed),
            up_block_types=(crossed_up, crossed_up, plain_up),
        ),
        2: dict(
            in_channels=6,
            block_out_channels=(8, 16, 32),
            down_block_types=(
                plain,
                plain,
                crossed,
            ),  # IF-II too attends at its lowest sizes only
            up_block_types=(crossed_up, plain_up, plain_up),
            class_embed_type="timestep",  # the noise level of the low-resolution picture
        ),
    }[stage]
    return UNet2DConditionModel(
        sample_size=STAGE_SIZES[stage - 1],
        out_channels=6,
        layers_per_block=1,
        mid_block_type="UNetMidBlock2DSimpleCrossAttn",
        act_fn="gelu",
        norm_num_groups=8,
        attention_head_dim=16,
        cross_attention_dim=TEXT_WIDTH,
        cross_attention_norm="group_norm",
        resnet_time_scale_shift="scale_shift",
        encoder_hid_dim=TEXT_WIDTH,
        encoder_hid_dim_type="text_proj",
        addition_embed_type="text",
        addition_embed_type_num_heads=2,
        **shape,
    )


def build_scheduler() -> DDPMScheduler:
    """IF's noise schedule: cosine, 1000 steps, learned-range variance, dynamic thresholding; of v, and steps that
    begin at the top whatever their number."""
    return DDPMScheduler(
        beta_schedule="squaredcos_cap_v2",
        prediction_type="v_prediction",  # epsilon hardly tells of the paper while it is chosen
        timestep_spacing="trailing",
        variance_type="learned_range",
        thresholding=True,
        dynamic_thresholding_ratio=0.95,
        sample_max_value=1.0,  # IF has 1.5, which greys a world whose paper is pure black or white
    )


def build_text_encoder(vocabulary_size: int) -> T5EncoderModel:
    """A two-layer T5 encoder: token ids [B, 12] -> embeddings [B, 12, 64]."""
    return T5EncoderModel(
        T5Config(
            vocab_size=vocabulary_size,
            d_model=TEXT_WIDTH,
            d_kv=16,
            d_ff=128,
            num_layers=2,
            num_heads=4,
            feed_forward_proj="gated-gelu",
            is_encoder_decoder=False,
            use_cache=False,
        )
    )


def build_tokenizer(words: list[str]) -> PreTrainedTokenizerFast:
    """A word-level tokenizer, lower-casing, that ends each prompt with </s> and pads as T5's does. A phrase among the
    words ("on white") is one token."""
    specials = ["<pad>", "</s>", "<unk>"]
    phrases = {word: word.replace(" ", "_") for word in words if " " in word}
    known = sorted({phrases.get(word, word) for word in words})
    vocabulary = {word: index for index, word in enumerate(specials + known)}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    joined = [normalizers.Replace(phrase, token) for phrase, token in phrases.items()]
    spaces = normalizers.Replace(Regex(r"\s+"), " ")
    tokenizer.normalizer = normalizers.Sequence([normalizers.NFKC(), normalizers.Lowercase(), spaces, *joined])
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.post_processor = processors.TemplateProcessing(
        single="$A </s>", special_tokens=[("</s>", vocabulary["</s>"])]
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        pad_token="<pad>",
        eos_token="</s>",
        unk_token="<unk>",
        model_max_length=TEXT_LENGTH,
    )
