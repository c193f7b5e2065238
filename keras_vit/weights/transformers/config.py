"""Reading of transformers' config.json, with a check that every setting is understood."""

from typing import Any

# Entries that describe the file, the class or the training.
_DESCRIPTIVE = {
    *("architectures", "auto_map", "dtype", "torch_dtype", "model_type", "id2label"),
    *(
        "label2id",
        "num_labels",
        "problem_type",
        "transformers_version",
        "finetuning_task",
    ),
    *("_name_or_path", "_commit_hash", "_attn_implementation_autoset", "name_or_path"),
    *(
        "_attn_implementation",
        "attn_implementation",
        "image_size",
        "task_specific_params",
    ),
    *("initializer_range", "initializer_factor", "hidden_dropout_prob", "drop_path_rate"),
    *("attention_probs_dropout_prob", "attention_dropout", "dropout", "return_dict"),
    *("use_cache", "use_bfloat16", "tie_word_embeddings", "experts_implementation"),
    # Settings of backbone classes, which return feature maps of several blocks.
    *("out_features", "out_indices", "stage_names", "apply_layernorm"),
    *("reshape_hidden_states", "base_config_key"),
    # Settings of text generation, which transformers 4 wrote into every config.
    *("bos_token_id", "eos_token_id", "pad_token_id", "sep_token_id", "max_length"),
    *("decoder_start_token_id", "min_length", "num_beams", "num_beam_groups", "top_k"),
    *("top_p", "typical_p", "temperature", "diversity_penalty", "repetition_penalty"),
    *("length_penalty", "encoder_no_repeat_ngram_size", "no_repeat_ngram_size"),
    *("num_return_sequences", "chunk_size_feed_forward", "output_attentions"),
    *("output_hidden_states", "torchscript", "is_decoder", "is_encoder_decoder"),
    # Settings of pretraining heads and of the pooler, which the model does not have.
    *("encoder_stride", "pooler_output_size", "pooler_act"),
}


def unknown_fields(config: dict[str, Any], understood: set[str]) -> list[str]:
    """List the settings in a config.json that may change outputs in an unknown way.

    Args:
        config: dict, the config of a network.
        understood: set of the settings that the reader of this network honors or checks.

    Returns:
        List of `name=value`, without settings that are null, false, zero or empty.
    """
    return [
        f"{key}={value!r}"
        for key, value in config.items()
        if value and key not in _DESCRIPTIVE | understood
    ]
