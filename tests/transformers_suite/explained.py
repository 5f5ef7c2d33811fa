# SPDX-License-Identifier: Apache-2.0
"""Tests of transformers that fail, and why; docs/inference.md says the same for users."""

MODELS = {
    "test_sliding_window_mask": "a sliding window is refused: no published model was trained so",
    "test_training_gradient_checkpointing": (
        "the tower's last layer, norm and head influence no output, so they get no gradient"
    ),
    "test_training_gradient_checkpointing_use_reentrant_false": "likewise",
    "test_training_gradient_checkpointing_use_reentrant": "see the next",
    "test_training_gradient_checkpointing_use_reentrant_true": (
        "use_reentrant=True is refused: it loses gradients without an error where a layer's input "
        "requires none"
    ),
}
SPLICED = {
    "test_bc_cache_name_forward": "the cache may have either name, without a warning",
    "test_config": "mPLUG-Owl's text sizes are read from text_config alone",
    "test_sdpa_can_dispatch_composite_models": "the tower is no model of its own",
    "test_correct_missing_keys": "base_model holds no weights of its own to be saved",
    "test_get_image_features_attentions": "the tower returns its features alone: an error",
    "test_get_image_features_hidden_states": "likewise",
    "test_multimodal_outputs_are_returned": "get_image_features returns them, not forward",
}
PROCESSORS = {
    "test_apply_chat_template_assistant_mask": (
        "text is cut where the assistant's begins and ends, as in training, before it becomes "
        "tokens; the test has a token that crosses the end"
    ),
    "test_chat_template_save_loading": (
        "chat_template.json and several named templates, forms of earlier releases, are not read"
    ),
    "test_flat_kwarg_applied_when_modality_dict_lacks_it": (
        "media_offset is a list of tensors, as published: rows differ in their number of tiles"
    ),
    "test_get_num_multimodal_tokens_matches_processor_call": (
        "return_mm_token_type_ids is refused: pictures are no tokens, media_offset has their places"
    ),
    "test_apply_chat_template_video_frame_sampling": (
        "on transformers 4 the test asks for keys that only a video processor of its own returns"
    ),
}
