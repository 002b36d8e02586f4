"""Keys of a `config.json`, by their effect on the numbers if an engine's code does not read them.

A key that the code reads is not in a table: it is applied. A key that it does not read is looked up here. `HARMLESS`
keys change no number of a text run. `NEUTRAL` keys do, except at the listed values. A key in neither table is reported
as not known, unless its value is empty, null or false.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

HARMLESS: dict[str, str] = {
    "names and versions": """
        architectures model_type transformers_version dtype torch_dtype _name_or_path name_or_path auto_map model_file
        id2label label2id problem_type task_specific_params attn_implementation _attn_implementation
        _attn_implementation_autoset tokenizer_class unsloth_fixed unsloth_version moe_watch_* experts_implementation
        _experts_implementation""",
    "special tokens: read by the tokenizer or by moe-watch": """
        *_token_id *_token_ids *_token_index *_token_idx *_token image_token_count stop_token_ids""",
    "length of the context: applied by moe-watch": """
        max_position_embeddings model_max_length max_seq_len max_sequence_length seq_length n_positions n_ctx max_length
        initial_context_length original_max_position_embeddings""",
    "training only": """
        *dropout *_dropout_prob *_pdrop initializer_range initializer_* *_initializer_factor *_aux_loss_coef
        *_aux_loss_alpha aux_loss_* router_z_loss_* router_jitter_noise input_jitter_noise moe_jitter_eps
        moe_loss_weight output_router_logits seq_aux ep_size moe_aux_loss* moe_z_loss* moe_capacity* capacity_factor
        expert_capacity* moe_drop_tokens moe_random_routing* rescale_prenorm_residual mtp_loss_scaling_factor
        mtp_loss_* multi_token_pred_lambda gradient_checkpointing recompute* router_dtype router_ignore_padding_tokens
        enable_moe_fp32_combine bias_update_* load_balance_coeff moe_router_bias_update_rate init_method* perturbation
        moe_dropout* moe_group* moe_multimodal* fuse_* sequence_parallel* tensor_parallel* use_recompute*
        freq_allocation compression_ratio token_balance* mamba_reset_parameters_*""",
    "speed and memory only": """
        use_cache use_mamba_kernels use_mambapy use_associative_scan mamba_chunk_size chunk_size chunk_size_feed_forward
        pretraining_tp num_logits_to_keep moe_shared_expert_overlap mamba_ssm_cache_dtype mamba_ssm_dtype
        use_grouped_mm cache_implementation use_flash_attention* use_fused* fused_* use_kernels attn_backend""",
    "outputs other than the logits": """
        return_dict output_attentions output_hidden_states is_encoder_decoder is_decoder add_cross_attention
        tie_encoder_decoder use_return_dict torchscript cross_attention_hidden_size finetuning_task prefix pruned_heads
        tf_legacy_loss use_bfloat16""",
    "drafting of further tokens (MTP), which no engine here does": """
        mtp_* *_mtp num_mtp_* use_mtp num_nextn_predict_layers num_nextn_* nextn_* eagle_*""",
    "structure: with another value tensors have other names or shapes, and loading fails": """
        *attention_bias *attn_bias qkv_bias use_qkv_bias mlp_bias lm_head_bias use_bias use_rmsnorm add_qkv_bias
        head_dim head_size qk_head_dim hidden_size d_model intermediate_size ffn_hidden_size moe_intermediate_size
        shared_intermediate_size shared_expert_intermediate_size dense_intermediate_size
        vocab_size tie_word_embeddings num_hidden_layers n_layers num_layers num_attention_heads n_heads
        num_key_value_heads n_routed_experts num_experts num_local_experts moe_num_experts n_shared_experts
        num_shared_experts moe_num_shared_experts decoder_sparse_step mlp_only_layers mlp_layer_types moe_layers
        moe_layer_freq moe_layer_start_index moe_layer_end_index moe_layer_interval first_k_dense_replace
        interleave_moe_layer_step expand mamba_expand mamba_n_heads linear_conv_kernel_dim linear_head_dim
        linear_num_heads full_attn_layers full_attention_interval attn_type_list q_lora_rank kv_lora_rank
        head_dim_list attention_method is_dense use_moe expert_interval qk_norm use_qk_norm attn_output_gate
        moe_use_aux_free moe_use_hard_gate moe_gate use_expert_bias""",
    "sampler: moe-watch's own options": """
        temperature top_k top_p typical_p do_sample repetition_penalty diversity_penalty length_penalty num_beams
        num_beam_groups num_return_sequences no_repeat_ngram_size encoder_no_repeat_ngram_size min_length
        early_stopping bad_words_ids suppress_tokens begin_suppress_tokens exponential_decay_length_penalty
        remove_invalid_values output_scores return_dict_in_generate""",
    "initial values of a state-space layer's steps; `time_step_limit` bounds them": """
        time_step_min time_step_max time_step_floor""",
    "read by moe-watch before the engine": """
        quantization quantization_config quantize_activations rope_parameters rope_scaling""",
    "images and sound: only text is run": """
        vision_* audio_* image_* video_* visual* mm_* *_projector* projector_* *_tower* boi_* eoi_* boa_* eoa_*
        im_* spatial_merge_size""",
}


@dataclass(frozen=True, slots=True)
class Setting:
    """Setting that changes the numbers of a model."""

    what: str
    """Effect of the setting, as a clause."""
    neutral: tuple[Any, ...] = ()
    """Values at which a model without it computes the same, in addition to null, false and empty ones."""
    false_counts: bool = False
    """False is a value with an effect, not the absence of the setting."""


NEUTRAL: dict[str, Setting] = {
    "clip_qkv": Setting("bounds queries, keys and values"),
    "hidden_act": Setting("is the activation of the experts or the MLP", ("silu", "swish")),
    "hidden_activation": Setting("is the activation of the experts or the MLP", ("gelu_pytorch_tanh",)),
    "mlp_hidden_act": Setting("is the activation of the experts or the MLP", ("relu2",)),
    "mamba_hidden_act": Setting("is the state-space layers' activation", ("silu",)),
    "ffn_act_fn": Setting("is the activation of the experts or the MLP", ({"name": "silu"},)),
    "swiglu_alpha": Setting("shapes the experts' activation", (1.702,)),
    "swiglu_limit": Setting("bounds the experts' activation", (7.0,)),
    "scoring_func": Setting("turns router logits into scores", ("noaux_tc",)),
    "topk_method": Setting("selects the experts", ("noaux_tc", "greedy")),
    "moe_norm_min": Setting("bounds the divisor of weights", (1e-12,)),
    "moe_normalize_expert_weights": Setting("is the norm that divides weights", (1, 1.0)),
    "moe_apply_router_weight_on_input": Setting("weights the experts' inputs, not their outputs"),
    "moe_router_logit_softcapping": Setting("bounds router logits"),
    "router_logit_softcapping": Setting("bounds router logits"),
    "attn_logit_softcapping": Setting("bounds attention scores"),
    "final_logit_softcapping": Setting("bounds the output logits"),
    "routed_scaling_factor": Setting("multiplies the experts' weights", (1, 1.0)),
    "embedding_multiplier": Setting("multiplies the embeddings", (1, 1.0)),
    "residual_multiplier": Setting("multiplies a layer's output", (1, 1.0)),
    "attention_multiplier": Setting("multiplies attention scores"),
    "logits_scaling": Setting("divides the output logits", (1, 1.0)),
    "logit_scale": Setting("multiplies the output logits", (1, 1.0)),
    "rope_theta": Setting("is the base of the rotation"),
    "partial_rotary_factor": Setting("rotates a part of each head only", (1, 1.0)),
    "rope_interleave": Setting("pairs neighbouring dimensions in the rotation", (True,), false_counts=True),
    "mla_use_nope": Setting("leaves out the rotation", (True,), false_counts=True),
    "kda_safe_gate": Setting("bounds the linear attention's decay", (True,), false_counts=True),
    "residual_in_fp32": Setting("adds layer outputs in float32"),
    "use_bidirectional_attention": Setting("lets tokens attend to later ones"),
    "n_group": Setting("limits the selection to some groups of experts", (1,)),
    "topk_group": Setting("limits the selection to some groups of experts", (1,)),
    "attention_chunk_size": Setting("limits attention to chunks of this size"),
    "sliding_window": Setting("limits attention to this number of tokens", (0,)),
    "layer_types": Setting("names the layers with a sliding window or chunks"),
    "no_rope_layers": Setting("names the layers without rotation"),
    "qk_norm_type": Setting("names the axes over which queries and keys are normalized", ("per_layer",)),
    "use_routing_bias": Setting("adds a bias to router scores", (True,)),
    "layernorm_full_attention_alpha": Setting("multiplies a layer's input", (1, 1.0)),
    "layernorm_full_attention_beta": Setting("multiplies a layer's output", (1, 1.0)),
    "layernorm_mlp_alpha": Setting("multiplies the experts' input", (1, 1.0)),
    "layernorm_mlp_beta": Setting("multiplies the experts' output", (1, 1.0)),
    "norm_topk_prob": Setting("divides weights by their sum", false_counts=True),
    "moe_renormalize": Setting("divides weights by their sum", false_counts=True),
}

ROPE_NEUTRAL: dict[str, Setting] = {
    "truncate": Setting("rounds the range of YaRN's ramp", (True,), false_counts=True),
    "attention_factor": Setting("multiplies rotated queries and keys"),
    "mscale": Setting("multiplies rotated queries and keys"),
    "mscale_all_dim": Setting("multiplies attention scores"),
    "factor": Setting("scales the rotation", (1, 1.0)),
    "alpha": Setting("scales the rotation", (1, 1.0)),
    "beta_fast": Setting("bounds YaRN's ramp", (32, 32.0)),
    "beta_slow": Setting("bounds YaRN's ramp", (1, 1.0)),
    "llama_4_scaling_beta": Setting("multiplies queries at late positions"),
}
"""The same for keys of the mapping that describes the rotation; its other keys are read by every RoPE type."""

ALIASES: dict[str, str] = {
    "sliding_window": "sliding_window_size",
    "num_expert_group": "n_group",
    "num_experts_per_token": "num_experts_per_tok",
    "rms_norm_eps": "layernorm_epsilon",
    "layer_types": "hybrid_layer_pattern",
    "sliding_window_pattern": "layer_types",
    "global_attn_every_n_layers": "layer_types",
    "no_rope_layer_interval": "no_rope_layers",
    "moe_renormalize": "norm_topk_prob",
    "max_window_layers": "sliding_window",
    "use_sliding_window": "sliding_window",
    "moe_norm_topk_prob": "norm_topk_prob",
    "experts_per_token": "num_experts_per_tok",
}
"""Keys that repeat another key, or apply only together with it: the other key is checked instead."""
