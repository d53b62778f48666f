"""The faults that `mutants.py` plants, each a change of one place of one file, and the tests that are to notice it."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

_TESTS = Path(__file__).parent / "bridle"


@dataclass(frozen=True, slots=True)
class Planted:
    """One fault.

    Attributes:
        name: what is wrong then.
        file: below bridle/.
        old, new: text that stands there once, and what stands there instead.
        tests: `file::test`, the file without folder, `test_` and `.py`; several are separated by spaces.
    """

    name: str
    file: str
    old: str
    new: str
    tests: str

    def applied(self, text: str) -> str:
        """Raises ValueError where the old text does not stand there exactly once."""
        if (found := text.count(self.old)) != 1:
            raise ValueError(f"{self.name}: {self.old!r} is in bridle/{self.file} {found} times, not once")
        return text.replace(self.old, self.new)

    @property
    def nodes(self) -> list[str]:
        """What pytest calls the tests."""
        return [node(one) for one in self.tests.split()]


def node(short: str) -> str:
    file, _, name = short.partition("::")
    (path,) = _TESTS.rglob(f"test_{file}.py")
    return f"tests/bridle/{path.relative_to(_TESTS).as_posix()}" + (f"::test_{name}" if name else "")


_POSITIONS = "method_networks::positions_follow_the_coordinates"
_PREDICTOR = "method_networks::the_predictor_knows_hidden_patches_by_their_coordinates_alone"
_PADDING = "method_networks::padding_says_nothing_to_any_network"
_BY_HAND = "quantize::codes_residuals_and_losses_by_hand"
_DEAD = "quantize::a_dead_code_becomes_an_input_with_an_average_codes_count_and_sum"
_TWO_UPDATES = "quantize::the_moving_average_after_two_updates"
_TARGETS = "method_losses::targets_are_the_codes_of_the_hidden_patches_of_each_mask"
_MOVES = "method_steps::a_phase_moves_all_of_its_own_and_nothing_else"
_RATE = "method_steps::the_rate_warms_up_and_falls_as_a_cosine_in_each_phase"
_DRAWN = "method_steps::masks_and_augmentation_follow_from_seed_step_and_place"
_CODES = "method_export::codes_of_model_and_program_are_the_nearest_at_each_level"
_PROGRAM = "method_export::the_encoder_program_gives_features_class_token_and_mean_of_the_average"

PLANTED = (
    # --- model and nn
    Planted(
        "the encoder has no positions", "model/encoder.py",
        "self.embed(x_BNP) + self.positions(coords_BN3)", "self.embed(x_BNP)", _POSITIONS,
    ),
    Planted(
        "the class token comes last", "model/encoder.py",
        "torch.cat([self.class_token_D.expand(h_BND.shape[0], 1, -1).to(h_BND.dtype), h_BND], dim=1)",
        "torch.cat([h_BND, self.class_token_D.expand(h_BND.shape[0], 1, -1).to(h_BND.dtype)], dim=1)",
        "method_networks::the_class_token_is_first_and_has_no_place",
    ),
    Planted(
        "the mask of padding is not shifted by the class token", "model/encoder.py",
        "pad(valid_BN, (1, 0), value=True)", "pad(valid_BN, (0, 1), value=True)", _PADDING,
    ),
    Planted(
        "hidden patches have no positions", "model/predictor.py",
        "self.mask_token_W + self.positions(masked_coords_BM3)",
        "self.mask_token_W + 0 * self.positions(masked_coords_BM3)", _PREDICTOR,
    ),
    Planted(
        "visible features have no positions in the predictor", "model/predictor.py",
        "self.embed(h_BVD) + self.positions(visible_coords_BV3)", "self.embed(h_BVD)", _PREDICTOR,
    ),
    Planted(
        "logits are those of visible patches", "model/predictor.py",
        "x[:, seen_BVW.shape[1] :]", "x[:, : masked_coords_BM3.shape[1]]", _PREDICTOR,
    ),
    Planted(
        "the predictor mistakes which slots are padding", "model/predictor.py",
        "[visible_valid_BV, masked_valid_BM]", "[masked_valid_BM, visible_valid_BV]", _PADDING,
    ),
    Planted(
        "the estimator has no positions", "model/tokenizer.py",
        "self.embed(batch.padded(z_q_RC)) + self.positions(batch.coords_BN3)", "self.embed(batch.padded(z_q_RC))",
        _POSITIONS,
    ),
    Planted(
        "the estimator sees padding", "model/tokenizer.py",
        "self.blocks(h_BND, batch.mask_BN)", "self.blocks(h_BND)", _PADDING,
    ),
    Planted(
        "features are not normalised", "model/encoder.py",
        "self.norm(self.blocks(h_BND, valid_BN))", "self.blocks(h_BND, valid_BN)",
        "method_networks::the_class_token_is_first_and_has_no_place",
    ),
    Planted(
        "the projection to z is linear", "model/tokenizer.py", "nn.Tanh()", "nn.Identity()",
        "method_networks::z_has_mean_0_and_deviation_1_over_the_batch",
    ),
    Planted(
        "z is not centred", "model/tokenizer.py",
        "return self.centre(z_RC.float())", "return z_RC.float()",
        "method_networks::z_has_mean_0_and_deviation_1_over_the_batch",
    ),
    Planted(
        "patches have the code of the one before", "model/tokenizer.py",
        "self.encoder(batch.x_BNP, batch.coords_BN3, batch.mask_BN)[:, 1:]",
        "self.encoder(batch.x_BNP, batch.coords_BN3, batch.mask_BN)[:, :-1]", _POSITIONS,
    ),
    Planted(
        "features come from the last step, not from the average", "model/bridle.py",
        "(self.average or self.encoder)(", "self.encoder(",
        "method_networks::features_come_from_the_average_and_predictions_from_the_encoder",
    ),
    Planted(
        "predictions come from the average", "model/bridle.py",
        "return self.encoder(x_BVP, visible_BV3", "return (self.average or self.encoder)(x_BVP, visible_BV3",
        "method_networks::features_come_from_the_average_and_predictions_from_the_encoder",
    ),
    Planted(
        "the encoder is given the hidden patches", "model/bridle.py",
        "pick(batch.x_BNP, mask.visible_BV)", "pick(batch.x_BNP, mask.masked_BM)",
        "method_networks::the_encoder_sees_visible_patches_and_the_tokenizer_all",
    ),
    Planted(
        "the decay of the encoder's average is inverted", "model/bridle.py",
        "share = sound * (1 - decay)", "share = sound * decay",
        "method_networks::the_encoders_average_after_two_steps",
    ),
    Planted(
        "the encoder's average takes in steps that changed nothing", "model/bridle.py",
        "share = sound * (1 - decay)", "share = 1 - decay", "method_networks::the_encoders_average_after_two_steps",
    ),
    Planted(
        "the cold tokenizer stays in force", "model/bridle.py",
        "self.tokenizer(batch) if bool(self.learned) else self.cold_tokenizer(batch)", "self.cold_tokenizer(batch)",
        "method_steps::an_encoder_step_predicts_codes_of_the_tokenizer_in_force",
    ),
    Planted(
        "padding has a code", "model/bridle.py",
        "batch.padded(out.codes_NQ, -1)", "batch.padded(out.codes_NQ)", _PADDING,
    ),
    Planted(
        "rows and columns change places in positions", "nn/positions.py",
        "for axis in self.axes", "for axis in reversed(self.axes)", "method_networks::positions_by_hand",
    ),
    Planted(
        "positions count in time alone", "nn/positions.py",
        "coords_BN3[..., axis] for axis", "coords_BN3[..., 0] for axis", _POSITIONS,
    ),
    Planted(
        "padding is attended to", "nn/block.py",
        "None if valid_BN is None else valid_BN[:, None, None, :]", "None", _PADDING,
    ),
    Planted(
        "the second half of a block has no norm", "nn/block.py",
        "self.mlp(self.norm2(x_BND))", "self.mlp(x_BND)", "method_networks::attention_and_block_by_the_formula",
    ),
    Planted(
        "queries and keys change places", "nn/block.py",
        "        q, k, v = self.qkv", "        k, q, v = self.qkv",
        "method_networks::attention_and_block_by_the_formula",
    ),
    Planted(
        "standardising multiplies by the deviation", "nn/standardise.py",
        "centred_RC * (variance_C + _EPSILON).rsqrt()", "centred_RC * (variance_C + _EPSILON).sqrt()",
        "method_networks::standardising_by_hand",
    ),
    Planted(
        "running averages keep a tenth", "nn/standardise.py",
        "average_C.lerp(new_C, _MOMENTUM)", "average_C.lerp(new_C, 1 - _MOMENTUM)",
        "method_networks::standardising_by_hand",
    ),
    Planted(
        "running averages take in steps that changed nothing", "nn/standardise.py",
        "torch.where(sound, average_C.lerp(new_C, _MOMENTUM), average_C)", "average_C.lerp(new_C, _MOMENTUM)",
        "method_networks::standardising_by_hand",
    ),
    Planted(
        "the spread between parts of a batch is lost", "nn/standardise.py",
        "variance_MC + (mean_MC - mean_C).square()", "variance_MC",
        "method_networks::parts_of_a_batch_move_the_averages_as_the_whole",
    ),
    # --- quantize
    Planted(
        "the farthest code is taken", "quantize/kmeans.py", "distance_NK.min(-1)", "distance_NK.max(-1)", _BY_HAND,
    ),
    Planted(
        "the length of a code counts twice", "quantize/kmeans.py",
        "0.5 * codebook_KC.square()", "1.0 * codebook_KC.square()", f"{_BY_HAND} quantize::nearest_code_is_the_nearest",
    ),
    Planted(
        "k-means divides by the largest cluster", "quantize/kmeans.py",
        "sum_KC / count_K.clamp(min=1)[:, None]", "sum_KC / count_K.amax()",
        "quantize::kmeans_finds_clusters_that_are_there",
    ),
    Planted(
        "z is not normalised", "quantize/residual.py",
        "z_NC = F.normalize(z_NC.float(), dim=-1)", "z_NC = z_NC.float()", _BY_HAND,
    ),
    Planted(
        "the residual keeps what a level took away", "quantize/residual.py",
        "residual_NC = (-codebook_KC)[code_N].add_(residual_NC)", "residual_NC = residual_NC * 1", _BY_HAND,
    ),
    Planted(
        "the commitment term has no gradient", "quantize/residual.py",
        "residual_NC = (-codebook_KC)[code_N].add_(residual_NC)", "residual_NC = (-codebook_KC)[code_N].add_(input_NC)",
        "quantize::gradient_reaches_z_straight_through_and_from_every_level",
    ),
    Planted(
        "the commitment term is a sum over levels", "quantize/residual.py",
        "norm_N.square().sum() / (max(len(norm_N), 1) * self.levels)", "norm_N.square().sum() / max(len(norm_N), 1)",
        _BY_HAND,
    ),
    Planted(
        "the commitment term is of lengths, not of their squares", "quantize/residual.py",
        "commitment + norm_N.square().sum()", "commitment + norm_N.sum()", _BY_HAND,
    ),
    Planted(
        "no gradient goes straight through", "quantize/residual.py",
        "z_q_NC = z_NC - residual_NC.detach()", "z_q_NC = (z_NC - residual_NC).detach()",
        "quantize::gradient_reaches_z_straight_through_and_from_every_level",
    ),
    Planted(
        "the decay of codebook counts is inverted", "quantize/residual.py",
        "self.count_QK.lerp(count_QK, step)", "self.count_QK.lerp(count_QK, 1 - step)", _TWO_UPDATES,
    ),
    Planted(
        "codebook sums are of the last batch alone", "quantize/residual.py",
        "newcomer_QKC, self.sum_QKC.lerp(sum_QKC, step)", "newcomer_QKC, sum_QKC", _TWO_UPDATES,
    ),
    Planted(
        "codebooks learn from z at every level", "quantize/residual.py",
        "            input_NC = (-self.codebook_QKC[level])[code_N].add_(input_NC)\n", "",
        "quantize::the_moving_average_weighs_by_counts",
    ),
    Planted(
        "dead codes stay dead", "quantize/residual.py",
        "new_QK < self.dead_below * expected_Q1", "new_QK < 0 * expected_Q1", _DEAD,
    ),
    Planted(
        "codes of less than average use are replaced", "quantize/residual.py",
        "new_QK < self.dead_below * expected_Q1", "new_QK < expected_Q1", _DEAD,
    ),
    Planted(
        "a replaced code keeps its count", "quantize/residual.py",
        "torch.where(dead_QK, expected_Q1, new_QK)", "new_QK", _DEAD,
    ),
    Planted(
        "a replaced code keeps its sum", "quantize/residual.py",
        "torch.where(dead_QK[..., None], newcomer_QKC, self.sum_QKC.lerp(sum_QKC, step))",
        "self.sum_QKC.lerp(sum_QKC, step)", _DEAD,
    ),
    Planted(
        "a frozen codebook goes on learning", "quantize/residual.py",
        "self.training and not bool(self.frozen)", "self.training",
        "quantize::frozen_means_frozen_also_after_loading",
    ),
    Planted(
        "codebooks do not follow the seed", "quantize/residual.py",
        "torch.Generator().manual_seed(self.seed)", "torch.Generator().manual_seed(0)",
        "quantize::the_same_seed_gives_the_same_bits",
    ),
    Planted(
        "each level starts on z, not on what is left of it", "quantize/residual.py",
        "                rows_NC = rows_NC - centre_KC[nearest_code(rows_NC, centre_KC)]\n", "",
        "quantize::codebooks_start_on_what_the_level_before_left_over",
    ),
    Planted(
        "young codebooks are as slow as old ones", "quantize/residual.py",
        "step = 1 - ((1 + self.updates) / (10 + self.updates)).clamp(max=self.decay)", "step = 1 - self.decay",
        "quantize::young_codebooks_forget_faster",
    ),
    Planted(
        "codebooks move by steps that changed nothing", "quantize/residual.py",
        "moves if sound is None else moves & sound", "moves", "quantize::a_step_that_is_not_sound_leaves_no_trace",
    ),
    Planted(
        "padding counts as use of a code", "quantize/usage.py",
        "(codes_NQ >= 0).all(-1, keepdim=True)", "(codes_NQ >= -1).all(-1, keepdim=True)", "quantize::usage_by_hand",
    ),
    Planted(
        "the projection does not take the mean away", "quantize/random_projection.py",
        "(x_NP.float() - self.mean_P) @ self.map_PC", "x_NP.float() @ self.map_PC",
        "quantize::random_projection_levels_the_variances",
    ),
    # --- masking and draws
    Planted(
        "as much is visible as should be hidden", "model/masking.py",
        "units_B.double() * (1 - ratio)", "units_B.double() * ratio",
        "masking::every_valid_patch_is_either_visible_or_masked",
    ),
    Planted(
        "one patch too many is visible", "model/masking.py",
        "(1 - ratio)).round().long().clamp(min=1)", "(1 - ratio)).round().long().add(1)",
        "masking::every_valid_patch_is_either_visible_or_masked",
    ),
    Planted(
        "padding is visible", "model/masking.py",
        "~batch.valid_BN.repeat(masks, 1), torch.inf", "~batch.valid_BN.repeat(masks, 1), -torch.inf",
        "masking::every_valid_patch_is_either_visible_or_masked",
    ),
    Planted(
        "tubes move from step to step", "model/masking.py",
        'draws.uniform("mask", tubes)[:, None].expand(-1, batch.grid[0], -1).flatten(1)',
        'draws.uniform("mask", batch.valid_BN.shape[1])', "masking::tubes_hide_the_same_place_at_all_times",
    ),
    Planted(
        "blocks are twice as large", "model/masking.py",
        "half_BK3 / 6 + 1 / 12", "half_BK3 / 3 + 1 / 6",
        "masking::blocks_are_rectangles_of_a_sixth_to_half_of_each_side",
    ),
    Planted(
        "the first of the hidden patches are predicted", "model/masking.py",
        "mask.masked_BM.gather(1, score_BM.argsort(1)[:, :most])", "mask.masked_BM[:, :most]",
        "masking::a_share_of_the_hidden_patches_is_predicted",
    ),
    Planted(
        "targets of several masks come clip by clip", "model/masking.py",
        ".gather(2, index).flatten(0, 1)", ".gather(2, index).transpose(0, 1).flatten(0, 1)", _TARGETS,
    ),
    Planted(
        "draws ignore the seed", "rng.py",
        "key_of(self._seed, self._step, purpose)", "key_of(self._step, purpose)", _DRAWN,
    ),
    Planted(
        "each step draws the same", "rng.py",
        "key_of(self._seed, self._step, purpose)", "key_of(self._seed, purpose)", _DRAWN,
    ),
    Planted(
        "numbers of one draw follow from each other", "rng.py",
        "_mixed(_mixed(key)[..., None] + column_N)", "(_mixed(key)[..., None] + column_N)",
        "masking::single_patches_are_hidden_alike",
    ),
    # --- train
    Planted(
        "all masks of a clip are one", "train/step.py", "place + mask * self.clips for mask", "place for mask", _DRAWN,
    ),
    Planted(
        "the sign of the cosine", "train/objectives.py", "(1 - F.cosine_similarity(", "(1 + F.cosine_similarity(",
        "method_losses::the_tokenizer_loss_is_one_minus_the_cosine",
    ),
    Planted(
        "the commitment term has weight one", "train/objectives.py",
        "config.tokenizer.commitment * out.commitment", "out.commitment",
        "method_losses::the_commitment_term_weighs_a_quarter_and_that_of_the_codebooks_one",
    ),
    Planted(
        "the tokenizer loss trains the encoder, too", "train/objectives.py",
        "model.features(batch)", "model.encoder(batch.x_BNP, batch.coords_BN3, batch.mask_BN)[:, 1:]",
        "method_losses::each_loss_reaches_its_own_networks_alone",
    ),
    Planted(
        "the estimator's targets are not standardised", "train/objectives.py",
        "model.target_norm(batch.rows(model.features(batch)))", "batch.rows(model.features(batch))",
        "method_losses::targets_of_the_estimator_are_standardised_features_of_the_whole_clip",
    ),
    Planted(
        "padding counts in the mean of the cross-entropy", "train/objectives.py",
        "targets.hidden.clamp(min=1)", "target_BMQ[..., 0].numel()",
        "method_losses::padding_never_counts_in_the_cross_entropy",
    ),
    Planted(
        "the cross-entropy is a sum over levels", "train/objectives.py",
        "(loss_Q * weight_Q).sum()", "loss_Q.sum()",
        "method_losses::cross_entropy_is_the_mean_over_hidden_patches_and_levels",
    ),
    Planted(
        "targets are codes of visible patches", "train/objectives.py",
        "pick(codes_BNQ, mask.masked_BM)", "pick(codes_BNQ, mask.visible_BV)", _TARGETS,
    ),
    Planted(
        "padding is a target", "train/objectives.py",
        "code_BMQ.masked_fill(~mask.masked_valid_BM[..., None], _PADDING)", "code_BMQ", _TARGETS,
    ),
    Planted(
        "the energy of a level is what it leaves", "train/objectives.py",
        "(energy_RQ[:, :-1] - energy_RQ[:, 1:]).sum(0)", "energy_RQ[:, 1:].sum(0)",
        "method_losses::energy_is_what_each_level_takes_away",
    ),
    Planted(
        "weights of the levels are reversed", "train/objectives.py",
        "return removed_Q / removed_Q.sum()", "return removed_Q.flip(0) / removed_Q.sum()",
        "train::level_weights_by_hand",
    ),
    Planted(
        "an encoder phase trains the tokenizer", "train/step.py",
        'if kind in ("tokenizer", "joint"):', 'if kind in ("tokenizer", "joint", "encoder"):', _MOVES,
    ),
    Planted(
        "what a phase does not train stays in training mode", "train/step.py",
        "model.requires_grad_(False).eval()", "model.requires_grad_(False)", _MOVES,
    ),
    Planted(
        "a tokenizer phase does not train the estimator", "train/step.py",
        "[model.tokenizer, model.estimator, model.target_norm]", "[model.tokenizer, model.target_norm]", _MOVES,
    ),
    Planted(
        "the tokenizer loss has weight one in joint mode", "train/step.py",
        "self.model.config.schedule.joint_weight * extra", "extra",
        "method_steps::a_joint_step_adds_a_fifth_of_the_tokenizer_loss",
    ),
    Planted(
        "all but matrices decay", "train/step.py",
        "((True, optim.weight_decay), (False, 0.0))", "((False, optim.weight_decay), (True, 0.0))",
        "method_steps::weight_decay_is_of_matrices_only",
    ),
    Planted(
        "the betas change places", "train/step.py",
        "(optim.beta1, optim.beta2)", "(optim.beta2, optim.beta1)", "method_steps::adamw_has_the_papers_betas",
    ),
    Planted(
        "the tokenizer learns at the encoder's rate", "train/step.py",
        'optim.tokenizer_lr if side == "tokenizer" else optim.lr', "optim.lr",
        "method_steps::each_side_has_its_own_rate",
    ),
    Planted(
        "gradients are not shortened", "train/step.py",
        "self.model.config.optim.clip_norm)", "torch.inf)",
        "method_steps::long_gradients_are_shortened_to_clip_norm",
    ),
    Planted(
        "gradients add up from step to step", "train/step.py",
        "        self.optimizer.zero_grad(set_to_none=True)\n        for part", "        for part",
        "method_steps::gradients_of_one_step_do_not_stay_for_the_next",
    ),
    Planted(
        "a step that is not finite changes the weights", "train/step.py",
        "(~outcome.sound).float()", "(~outcome.sound).float() * 0",
        "train_views::a_step_that_is_not_sound_says_why_and_changes_nothing",
    ),
    Planted(
        "the parts of a step count alike whatever their size", "train/step.py",
        "share_2[0] * targets.hidden", "share_2[0].new_tensor(0.5)",
        "train_views::parts_of_unequal_clips_add_up_to_the_whole",
    ),
    Planted(
        "no warm-up", "train/phases.py", "return fraction / warmup", "return 1.0", "train::phases_and_rates_by_hand",
    ),
    Planted(
        "the rate rises again", "train/phases.py", "0.5 * (1 + math.cos(", "0.5 * (1 - math.cos(",
        "train::phases_and_rates_by_hand",
    ),
    Planted(
        "the encoder comes before the tokenizer", "train/phases.py",
        '[("tokenizer", schedule.tokenizer), ("encoder", schedule.encoder)]',
        '[("encoder", schedule.encoder), ("tokenizer", schedule.tokenizer)]', "train::phases_and_rates_by_hand",
    ),
    Planted(
        "the first step has a rate of zero", "train/trainer.py",
        "fraction + 0.5 / phase.steps", "fraction", _RATE,
    ),
    Planted(
        "the encoder's average is young again in each phase", "train/trainer.py",
        "self.phase_step if self.config.schedule.restart else self.step", "self.phase_step",
        "method_steps::the_average_follows_the_steps_of_a_run",
    ),
    Planted(
        "an encoder phase keeps the head of the codebooks before", "train/trainer.py",
        "self.model.predictor.renew_head()", "pass", "method_steps::every_step_of_a_run_moves_what_its_phase_trains",
    ),
    Planted(
        "an encoder phase always starts afresh", "train/trainer.py",
        "if self.config.schedule.restart:", "if True:", "train::an_encoder_phase_goes_on_or_starts_afresh",
    ),
    Planted(
        "the average takes in steps of the tokenizer", "train/trainer.py",
        'if phase.kind != "tokenizer":', "if phase:", "method_steps::every_step_of_a_run_moves_what_its_phase_trains",
    ),
    Planted(
        "a learned tokenizer does not come into force", "train/trainer.py",
        "            self.model.tokenizer.quantizer.freeze()\n            self.model.learned.fill_(True)\n",
        "            self.model.tokenizer.quantizer.freeze()\n",
        "method_steps::every_step_of_a_run_moves_what_its_phase_trains",
    ),
    Planted(
        "three of four joint steps train the tokenizer", "train/trainer.py",
        "self.config.schedule.joint_every == 0", "self.config.schedule.joint_every != 0",
        "method_steps::joint_mode_trains_the_tokenizer_every_fourth_step",
    ),
    Planted(
        "the online probe's neighbours include the clip itself", "train/online_probe.py",
        ".fill_diagonal_(-torch.inf)", "", "online_probe::knn_leaves_the_clip_itself_out",
    ),
    # --- stream
    Planted(
        "every epoch has the same order", "stream/order.py",
        "(*self._seed, epoch, *((pool,) if pool else ()))", "(*self._seed, *((pool,) if pool else ()))",
        "stream::every_sample_comes_once_an_epoch_in_full_batches",
    ),
    Planted(
        "the order does not follow the seed", "stream/loader.py",
        "return Epochs(starts[-1], seed, 0,", "return Epochs(starts[-1], 0, 0,",
        "stream::every_sample_comes_once_an_epoch_in_full_batches",
    ),
    Planted(
        "the rest of an epoch is dropped", "stream/order.py",
        "if position >= self.samples:", "if position + count > self.samples:",
        "stream::the_plan_covers_each_epoch_exactly",
    ),
    Planted(
        "all ranks read the same", "stream/order.py",
        "step[rank * batch : (rank + 1) * batch]", "step[:batch]", "stream::the_plan_covers_each_epoch_exactly",
    ),
    Planted(
        "a sample has the same crop in every epoch", "stream/order.py",
        'struct.pack("<QQQ", seed, request.epoch, request.index)', 'struct.pack("<QQQ", seed, 0, request.index)',
        "method_data::a_crop_follows_from_seed_epoch_and_sample",
    ),
    Planted(
        "a resumed stream begins its epoch again", "stream/loader.py",
        'Cursor(state["epoch"], state["position"])', 'Cursor(state["epoch"], 0)',
        "stream::a_resumed_stream_goes_on_as_if_nothing_had_happened",
    ),
    Planted(
        "a clip that failed moves the places of the others", "stream/loader.py",
        "good = [(first + n, view) for n, view in enumerate(views) if view.data is not None]",
        "good = [(first + n, view) for n, view in enumerate(view for view in views if view.data is not None)]",
        "stream::what_cannot_be_decoded_is_left_out_and_listed",
    ),
    # --- patches
    Planted(
        "rows and columns change places in the order of patches", "patches/cut.py",
        "x.permute(0, 2, 4, 6, 1, 3, 5, 7)", "x.permute(0, 2, 6, 4, 1, 3, 5, 7)",
        "patches::cut_by_hand method_data::spectrograms_are_normalised_by_twice_the_deviation_of_the_corpus",
    ),
    Planted("rows count slowest", "patches/cut.py", 'indexing="ij"', 'indexing="xy"', "patches::cut_by_hand"),
    Planted(
        "a spectrogram lacks its last frame", "patches/spectrogram.py",
        "// self.hop + 1, 0)", "// self.hop, 0)", "method_data::a_tone_is_in_its_band_and_a_click_in_its_frame",
    ),
    Planted(
        "bands are spread over Hz, not over mel", "patches/spectrogram.py",
        "mel_1F = 1127.0 * (1.0 + (rate_hz / fft * torch.arange(fft / 2)).unsqueeze(0) / 700.0).log()",
        "mel_1F = low + (high - low) * torch.arange(fft / 2).unsqueeze(0) / (fft / 2)",
        "method_data::a_tone_is_in_its_band_and_a_click_in_its_frame",
    ),
    Planted(
        "spectrograms are divided by one deviation", "patches/audio.py",
        "/ (2 * self.std)", "/ self.std",
        "method_data::spectrograms_are_normalised_by_twice_the_deviation_of_the_corpus",
    ),
    Planted(
        "padding counts in a clip's deviation", "patches/audio.py",
        "((mel_BTM - mean_B11) * real_BT1).square()", "(mel_BTM - mean_B11).square()",
        "patches::clip_normalisation_counts_real_frames_only",
    ),
    Planted(
        "loudness is drawn of amplitudes as if of powers", "patches/audio.py",
        "10 ** (gain_B1 / 20)", "10 ** (gain_B1 / 10)", "method_data::gain_is_drawn_evenly_within_its_decibels",
    ),
    Planted(
        "one step of padding is valid", "patches/patcher.py",
        "coords_N3[:, 0] < step_B1", "coords_N3[:, 0] <= step_B1", "patches::short_audio_is_masked_not_learned",
    ),
    Planted(
        "pixels are multiplied by the deviation", "patches/image.py",
        "/ 255.0 - mean) / std", "/ 255.0 - mean) * std",
        "method_data::patches_of_a_colour_hold_its_channels_one_after_the_other",
    ),
    Planted(
        "every image is mirrored", "patches/image.py", 'draws.uniform("flip") < 0.5', 'draws.uniform("flip") < 1',
        "method_data::half_of_the_images_are_mirrored_and_rows_stay",
    ),
    Planted(
        "random crops keep their share of each side, not of the area", "patches/image.py",
        "(smallest + (1 - smallest) * float(torch.rand((), generator=rng)))",
        "(smallest + (1 - smallest) * float(torch.rand((), generator=rng))) ** 2",
        "method_data::random_crops_have_the_areas_and_sides_that_are_asked_for",
    ),
    Planted(
        "random crops begin at the top", "patches/image.py",
        "top = int(torch.randint(height - crop_h + 1, (), generator=rng))", "top = 0",
        "method_data::random_crops_have_the_areas_and_sides_that_are_asked_for",
    ),
    Planted(
        "every window of sound is its middle", "patches/audio.py",
        "int(torch.randint(spare + 1, (), generator=rng)) if rng else spare // 2", "spare // 2",
        "method_data::a_window_of_sound_is_any_part_of_it_wrapped_around",
    ),
    Planted(
        "frames of a window are neighbours", "patches/tubelet.py",
        "clip.data[start : start + (frames - 1) * stride + 1 : stride]", "clip.data[start : start + frames]",
        "patches::video_frames_follow_the_stride",
    ),
    Planted(
        "motion is enlarged around zero", "patches/tubelet.py",
        "mean + gain * (frames - mean)", "gain * (frames - mean)",
        "method_data::motion_is_enlarged_around_the_mean_of_each_tubelet",
    ),
    Planted(
        "the deviation of a corpus is its root mean square", "patches/statistics.py",
        "value / total.count - mean**2", "value / total.count", "method_data::pixel_statistics_by_hand",
    ),
    # --- evaluate
    Planted(
        "a clip votes for itself when neighbours are counted", "evaluate/knn.py",
        "similarity_MN.masked_fill_(", "similarity_MN.masked_fill(",
        "evaluate::knn_chooses_k_on_train_and_leaves_whole_groups_out",
    ),
    Planted(
        "the temperature multiplies", "evaluate/knn.py",
        "((nearest_MK - 1) / temperature).exp()", "((nearest_MK - 1) * temperature).exp()",
        "evaluate::knn_votes_by_hand",
    ),
    Planted(
        "neighbours are scaled by the test clips, too", "evaluate/knn.py",
        "scale = standardiser(train_ND)", "scale = standardiser(torch.cat([train_ND, test_MD]))",
        "evaluate::knn_is_scikit_learns",
    ),
    Planted(
        "the linear probe scales test clips by themselves", "evaluate/linear.py",
        "scale(train_ND), scale(test_MD)", "scale(train_ND), standardiser(test_MD)(test_MD)",
        "evaluate::linear_equals_scikit_learn",
    ),
    Planted(
        "the least likely class is guessed", "evaluate/metrics.py",
        "guess_M = scores_ML.argmax(1)", "guess_M = scores_ML.argmin(1)", "metrics::accuracy_top5_and_f1_by_hand",
    ),
    Planted(
        "the five least likely classes count", "evaluate/metrics.py",
        "np.argsort(-scores_ML, axis=1", "np.argsort(scores_ML, axis=1", "metrics::accuracy_top5_and_f1_by_hand",
    ),
    Planted(
        "classes without a test clip lower the mean average precision", "evaluate/metrics.py",
        "for c in np.flatnonzero(some)])", "for c in range(len(some))])",
        "metrics::map_is_scikit_learns_on_random_multi_label_data",
    ),
    Planted(
        "the interval is one of 90 %", "evaluate/metrics.py",
        "[(1 - confidence) / 2, (1 + confidence) / 2]", "[1 - confidence, confidence]",
        "metrics::the_interval_is_the_binomial_one",
    ),
    Planted(
        "the interval is that of four times as many clips", "evaluate/metrics.py",
        "multinomial(clips, counts / clips, size=resamplings) @ values",
        "multinomial(4 * clips, counts / clips, size=resamplings) @ values / 4",
        "metrics::the_interval_is_the_binomial_one",
    ),
    Planted(
        "groups are on both sides of a fold", "evaluate/splits.py",
        "        if groups_N is not None:\n            maker", "        if False:\n            maker",
        "evaluate::no_group_is_on_both_sides",
    ),
    Planted(
        "scores of folds are laid to other clips", "evaluate/probe.py",
        "np.concatenate(parts)[order]", "np.concatenate(parts)", "evaluate::folds_test_every_clip_once",
    ),
    Planted(
        "padding counts in the mean of a clip", "infer/pooling.py",
        "weight_BSN = valid_BN.float().unsqueeze(1)", "weight_BSN = torch.ones_like(valid_BN).float().unsqueeze(1)",
        "evaluate::mean_pooling_ignores_padding",
    ),
    Planted(
        "the better model is said to be the worse", "evaluate/paired.py",
        "theirs * len(self._tested.scores_SML) - mine * len(other.scores_SML)",
        "mine * len(other.scores_SML) - theirs * len(self._tested.scores_SML)", "compare::seeds_are_averaged",
    ),
    # --- export
    Planted(
        "levels come in reverse", "export/programs.py",
        "torch.stack(codes, dim=-1)", "torch.stack(codes[::-1], dim=-1)", _CODES,
    ),
    Planted(
        "the exported tokenizer takes the farthest code", "export/programs.py",
        "distance_BNK.argmin(-1)", "distance_BNK.argmax(-1)", _CODES,
    ),
    Planted(
        "every exported level codes z itself", "export/programs.py",
        "            residual_BNC = residual_BNC - F.embedding(code_BN, codebook_KC)\n", "", _CODES,
    ),
    Planted(
        "the cold tokenizer is exported", "export/programs.py",
        "    elif bool(model.learned):\n", "    elif not model:\n", _CODES,
    ),
    Planted(
        "the last step is exported, not the average", "export/programs.py",
        "deepcopy(model.average or model.encoder)", "deepcopy(model.encoder)", _PROGRAM,
    ),
    Planted(
        "padding counts in the exported mean", "export/programs.py",
        "valid_BN1.sum(1).clamp(min=1)", "features_BND.shape[1]", _PROGRAM,
    ),
    Planted(
        "the first patch is exported as class token", "export/programs.py",
        "h_BND[:, 1:] * valid_BN1, h_BND[:, 0]", "h_BND[:, 1:] * valid_BN1, h_BND[:, 1]", _PROGRAM,
    ),
    Planted(
        "a reloaded export is compared with itself", "export/safetensors.py",
        "distance(model.features(batch), other", "distance(other.features(batch), other",
        "export::a_model_that_comes_back_different_leaves_nothing",
    ),
    Planted(
        "exported codes may differ", "export/parity.py",
        "(model.tokenize(batch) == program(batch)[0])", "(program(batch)[0] == program(batch)[0])",
        "export_onnx::a_tie_that_float32_cannot_decide_is_no_difference",
    ),
    Planted(
        "exported preprocessing is one frame late", "export/standalone/preprocess.py",
        "sliding_window_view(wave_S, window)", "sliding_window_view(np.roll(wave_S, -_hop(patches)), window)",
        "export_preprocess::preprocessing_without_pytorch_makes_the_same_patches",
    ),
)  # fmt: skip
