"""Mutants: one wrong line each, and the tests that concern it.

A line of a file's table is (name, old text, new text); a fourth entry names other tests
than the file's, a fifth says why the mutant is equivalent to the original.
"""

# ruff: noqa: E501, a row is a line

from pathlib import Path
from typing import NamedTuple


class Mutant(NamedTuple):
    """One change of one file.

    Attributes:
      room: the part of the package that its score counts for.
      file: path from the root of the tree.
      name: what is wrong.
      old: text that occurs exactly once in the file.
      new: what takes its place.
      tests: files or node ids below tests/.
      equivalent: why no test can tell it from the original; empty if one can.
    """

    room: str
    file: str
    name: str
    old: str
    new: str
    tests: list[str]
    equivalent: str = ""

    def applies(self, root: Path) -> bool:
        """Whether the tree has the file with the old text, once, and the tests."""
        path, files = root / self.file, [test.split("::")[0] for test in self.tests]
        there = path.is_file() and path.read_text().count(self.old) == 1
        return there and all((root / "tests" / file).is_file() for file in files)

    def __str__(self) -> str:
        """Returns file and name, by which it is chosen."""
        return f"{self.file}: {self.name}"


def _mutants(file: str, tests: str, *rows: tuple[str, ...]) -> list[Mutant]:
    path = file.removeprefix("progdist/").split("/")
    room = path[0] if path[1:] else "core"
    return [
        Mutant(
            *(room, file, name, old, new),
            tests=(other[0] if other and other[0] else tests).split(),
            equivalent=other[1] if other[1:] else "",
        )
        for name, old, new, *other in rows
    ]


# fmt: off
DIFFUSION = [
    *_mutants(
        "progdist/diffusion/schedules.py",
        "test_schedules.py",
        ("half the log-SNR", "-2.0, 2.0) * jnp.log", "-1.0, 1.0) * jnp.log"),
        ("one end's angle for both", "a * (1 - t) + b_end", "a * (1 - t) + b"),
        ("angle of another end", "np.exp(-self.logsnr_max / 2)", "np.exp(-self.logsnr_max)"),
        ("inverse with one end's angle", "1 - (angle - b_end) / a", "1 - (angle - b) / a"),
        ("no complement near t = 1", "jnp.where(phi < complement, -2.0, 2.0) * jnp.log(tan)", "-2.0 * jnp.log(jnp.tan(phi))"),
        ("no slope in the middle", "jnp.where(phi < complement, phi, complement)", "jnp.minimum(phi, complement)"),
        ("quadratic instead of linear", "self.logsnr_max + (self.logsnr_min - self.logsnr_max) * t", "self.logsnr_max + (self.logsnr_min - self.logsnr_max) * t**2"),
        ("beta not integrated", "0.5 * (self.beta_max - self.beta_min) * t", "(self.beta_max - self.beta_min) * t"),
        ("another largest beta", "beta_max: float = 20.0", "beta_max: float = 25.0"),
        ("another last beta", "beta_end: float = 0.02", "beta_end: float = 0.03"),
        ("another first beta", "beta_start: float = 1e-4", "beta_start: float = 2e-4"),
        ("alpha for alpha squared", "np.log1p(-betas)", "0.5 * np.log1p(-betas)"),
        ("no bound at t = 0", "jnp.maximum(jnp.expm1(b), np.exp(-self.logsnr_max))", "jnp.expm1(b)"),
        ("wrong root", "2 * slope * b)", "slope * b)"),
        ("discrete times a step early", "np.linspace(0.0, 1.0, self.num_timesteps + 1)", "np.linspace(0.0, 1.0 - 1 / self.num_timesteps, self.num_timesteps + 1)"),
        ("sigma from alpha", "jnp.sqrt(jax.nn.sigmoid(-logsnr))", "jnp.sqrt(1 - jax.nn.sigmoid(logsnr))", "test_schedules.py test_process.py test_prediction.py"),
    ),
    *_mutants(
        "progdist/diffusion/process.py",
        "test_process.py",
        ("variance for deviation", "alpha * x + sigma * eps", "alpha * x + sigma**2 * eps"),
        ("ratio upside down", "alpha_t / alpha_s * z_s", "alpha_s / alpha_t * z_s"),
        ("deviation for variance", "* sigma_t**2", "* sigma_t"),
        ("forward variance cancels", "-jnp.expm1(logsnr_t - logsnr_s) * sigma_t**2", "(1 - jnp.exp(logsnr_t - logsnr_s)) * sigma_t**2"),
        ("posterior variance cancels", "jnp.exp(logsnr_t - logsnr_s), -jnp.expm1(logsnr_t - logsnr_s)", "jnp.exp(logsnr_t - logsnr_s), 1 - jnp.exp(logsnr_t - logsnr_s)"),
        ("posterior mean without its ratio", "r * (alpha_s / alpha_t) * z_t", "r * z_t"),
        ("posterior mean without alpha", "one_minus_r * alpha_s * x", "one_minus_r * x"),
        ("posterior variance of alpha", "one_minus_r * sigma_s**2", "one_minus_r * alpha_s**2"),
    ),
    *_mutants(
        "progdist/diffusion/prediction.py",
        "test_prediction.py",
        ("sign of v from x", "(alpha * z_t - x) / sigma", "(x - alpha * z_t) / sigma"),
        ("eps from x without alpha", "(z_t - alpha * x) / sigma", "(z_t - x) / sigma"),
        ("sign of v from eps", "(eps - sigma * z_t) / alpha", "(sigma * z_t - eps) / alpha"),
        ("x from eps without sigma", "(z_t - sigma * eps) / alpha", "(z_t - eps) / alpha"),
        ("eps first of both", "x_out, eps_out = jnp.split", "eps_out, x_out = jnp.split"),
        ("shares of both swapped", "alpha * eps_out - sigma * x_out", "sigma * eps_out - alpha * x_out"),
        ("sign of v in eps", "sigma * z_t + alpha * v", "sigma * z_t - alpha * v"),
        ("clipped to [0, 1]", "jnp.clip(prediction.x, -1.0, 1.0)", "jnp.clip(prediction.x, 0.0, 1.0)"),
        ("eps of the x before clipping", "return from_output(jnp.clip(prediction.x, -1.0, 1.0), z_t, logsnr_t, \"x\")", "return prediction._replace(x=jnp.clip(prediction.x, -1.0, 1.0))"),
        ("both in half the channels", "return 2 if", "return 1 if"),
    ),
    *_mutants(
        "progdist/diffusion/samplers.py",
        "test_samplers.py",
        ("variance for deviation", "sigma_s * prediction.eps", "sigma_s**2 * prediction.eps"),
        ("bounds of the variance swapped", ") ** gamma", ") ** (1 - gamma)"),
        ("half of gamma", ") ** gamma", ") ** (gamma / 2)"),
        ("variance for deviation, ancestral", "jnp.sqrt(q.variance)", "q.variance"),
        ("the same noise at each step", "jax.random.fold_in(key, move.i)", "jax.random.fold_in(key, 0)"),
        ("the same noise for each image", "jax.random.fold_in(key, move.i)", "jax.random.fold_in(keys[0], move.i)"),
        ("noise at the last step", "jnp.where(jnp.asarray(i) == 0, prediction.x, z_s)", "z_s"),
        ("x returned a step early", "jnp.asarray(i) == 0", "jnp.asarray(i) <= 1"),
        ("times a step early", "jnp.asarray(i + 1), jnp.asarray(i)]", "jnp.asarray(i + 1), jnp.asarray(i + 0.5)]"),
        ("clips when not to", "if clip_x:", "if not clip_x:"),
        ("never clips", "if clip_x:", "if False:"),
        ("steps forwards", "i = num_steps - 1 - j", "i = j"),
        ("times of the trajectory forwards", "jnp.arange(num_steps, -1, -1) / num_steps", "jnp.arange(num_steps + 1) / num_steps"),
        ("no upper bound on gamma", "not 0 <= gamma <= 1", "not 0 <= gamma"),
    ),
    *_mutants(
        "progdist/diffusion/ode.py",
        "test_ode.py",
        ("twice the drift", "return 0.5 * jax.nn.sigmoid(-logsnr) * slope", "return jax.nn.sigmoid(-logsnr) * slope"),
        ("half the diffusion", "return -jax.nn.sigmoid(-logsnr) * slope", "return -0.5 * jax.nn.sigmoid(-logsnr) * slope"),
        ("score over the deviation", "(alpha * x - z_t) / sigma**2", "(alpha * x - z_t) / sigma"),
        ("twice the velocity", "return -0.5 * alpha * sigma", "return -alpha * sigma"),
        ("Heun's weights", "(0.5, 0.5)", "(1.0, 0.0)"),
        ("RK4's weights swapped", "(1 / 6, 1 / 3, 1 / 3, 1 / 6)", "(1 / 3, 1 / 6, 1 / 6, 1 / 3)"),
        ("RK4's stage", "((), (0.5,), (0.0, 0.5), (0.0, 0.0, 1.0))", "((), (0.5,), (0.5, 0.0), (0.0, 0.0, 1.0))"),
        ("stages at the step's start", "1 + h * (j + c)", "1 + h * j"),
        ("steps counted, not calls", "num_steps * len(rule.b)", "num_steps"),
        ("seven calls a step", "6 * num_steps + 1", "7 * num_steps"),
    ),
    *_mutants(
        "progdist/diffusion/losses.py",
        "test_losses.py",
        ("SNR upside down", "return jnp.exp(logsnr)\n", "return jnp.exp(-logsnr)\n"),
        ("truncated from above", "jnp.maximum(jnp.exp(logsnr), 1.0)", "jnp.minimum(jnp.exp(logsnr), 1.0)"),
        ("SNR + 1 without the 1", "1.0 + jnp.exp(logsnr)", "jnp.exp(logsnr)"),
        ("a gradient reaches the teacher", "x_tilde = jax.lax.stop_gradient(", "x_tilde = ("),
        ("times a step early", "schedule(i.astype(x.dtype) /", "schedule((i - 1).astype(x.dtype) /"),
        ("times half a step late", "schedule(i.astype(x.dtype) /", "schedule((i.astype(x.dtype) + 0.5) /"),
        ("a sum over pixels", "jnp.mean(jnp.square(x - x_hat), axis=", "jnp.sum(jnp.square(x - x_hat), axis="),
        ("absolute error", "jnp.square(x - x_hat)", "jnp.abs(x - x_hat)"),
        ("error not weighted", "loss_weight(logsnr_t, weight) * error", "error"),
        ("bins begin at their centres", "jnp.round((logsnr_t", "jnp.floor((logsnr_t"),
        ("beyond the bins in none", "number = jnp.clip(number, 0, len(logsnr_bins.CENTRES) - 1).astype(int)", "number = number.astype(int)"),
        ("parts summed", "parts = jnp.mean(", "parts = jnp.sum("),
    ),
    *_mutants(
        "progdist/diffusion/targets.py",
        "test_losses.py",
        ("no limit at the data", "jnp.where(at_data, last.astype(weights.dtype), weights)", "weights"),
        ("the limit a step early", "at_data=i == 1", "at_data=i <= 2"),
        ("first teacher step weighs as the second", "jnp.exp((logsnr[:-1] - logsnr[:1]) / 2) * jnp.expm1(", "jnp.expm1("),
        ("weights cancel", "growth / jnp.expm1((logsnr[-1:] - logsnr[:1]) / 2)", "growth / (jnp.exp((logsnr[-1:] - logsnr[:1]) / 2) - 1)"),
        ("the teacher stays at t", "        z = ddim_step(", "        ddim_step("),
        ("teacher's second step from t", "denoise(z, logsnr[j])", "denoise(z, logsnr[0])"),
        ("teacher's steps too long", "(ratio * i - steps) / num_knots", "(ratio * i - 2 * steps) / num_knots"),
        ("x_tilde of the last call alone", "x_tilde += over_pixels(weights[j], z) * prediction.x", "x_tilde = prediction.x"),
    ),
    *_mutants(
        "progdist/diffusion/solvers.py",
        "test_sampling.py",
        ("Heun counted as one call", "{\"heun\": 2, \"rk4\": 4}", "{\"heun\": 1, \"rk4\": 4}"),
        ("calls not a multiple pass", "if num_calls % calls:", "if False:", "test_sampling.py test_evaluate.py"),
        ("gamma ignored", "samplers.make_ancestral_step(keys, gamma)", "samplers.make_ancestral_step(keys, 0.0)"),
    ),
    *_mutants(
        "progdist/diffusion/logsnr_bins.py",
        "test_losses.py",
        ("part for mean", "part / share:.6g", "part:.6g"),
    ),
]

NETS = [
    *_mutants(
        "progdist/nets/blocks.py",
        "test_unet_published.py test_nets.py",
        ("64 groups", "math.gcd(64, channels) // 2", "math.gcd(64, channels)"),
        ("every other pixel", ".mean((2, 4))", "[:, :, 0, :, 0]"),
        ("channels outermost in a patch", "x.transpose(0, 1, 3, 2, 4, 5).reshape(b, h // size", "x.transpose(0, 1, 3, 5, 2, 4).reshape(b, h // size"),
        ("dropout shrinks", "x / (1 - rate)", "x"),
        ("dropout at the other rate", "1 - rate, shape", "rate, shape"),
        ("one mask for all places", "jax.random.fold_in(key, number)", "jax.random.fold_in(key, 0)"),
        ("one mask for all examples", "jax.vmap(keep)(dropout.keys)", "keep(dropout.keys[0])"),
        ("epsilon of the norm", "epsilon: float = 1e-6", "epsilon: float = 1e-3"),
        ("scale for shift in the norm", "scale, shift = modulation", "shift, scale = modulation"),
        ("scale for shift in the block", "scale, shift = jnp.split", "shift, scale = jnp.split"),
        ("scale instead of 1 + scale", "a, b = a * (1 + scale), b * (1 + scale) + shift", "a, b = a * scale, b * scale + shift"),
        ("shift scaled", "b * (1 + scale) + shift", "(b + shift) * (1 + scale)"),
        ("groups strided", "values.sum((1, 2)).reshape(batch, groups, -1).sum(2)", "values.sum((1, 2)).reshape(batch, -1, groups).sum(1)"),
        ("biased group mean", "sums / size", "sums / (size - 1)"),
        ("mean not subtracted", "mean_of(x * x) - mean * mean", "mean_of(x * x)"),
        ("no bias in the convolution", "return x + bias.astype(self.dtype)[None, None, None]", "return x"),
        ("no first swish", "h = nn.swish(GroupNorm(self.dtype, name=\"norm1\")(x))", "h = GroupNorm(self.dtype, name=\"norm1\")(x)"),
        ("no second swish", "h = nn.swish(GroupNorm(self.dtype, name=\"norm2\")(h, (scale, shift)))", "h = GroupNorm(self.dtype, name=\"norm2\")(h, (scale, shift))"),
        ("no swish of the embedding", "project(nn.swish(emb))", "project(emb)"),
        ("dropout never applied", "if dropout is not None:", "if False:"),
        ("branch not closed", "zero=True, dtype=self.dtype, name=\"conv2\"", "dtype=self.dtype, name=\"conv2\""),
        ("residual over the root of 2", "x = nn.Dense(self.features, dtype=self.dtype, name=\"nin_shortcut\")(x)\n        return x + h", "x = nn.Dense(self.features, dtype=self.dtype, name=\"nin_shortcut\")(x)\n        return (x + h) / 2**0.5"),
        ("shortcut always", "if x.shape[-1] != self.features:", "if True:"),
        ("attention closed by no zeros", "kernel_init=nn.initializers.zeros,", ""),
        ("attention without its norm", "h = GroupNorm(self.dtype, name=\"norm\")(x).reshape", "GroupNorm(self.dtype, name=\"norm\")(x)\n        h = x.reshape"),
        ("attention instead of a residual", "return x + h.reshape(x.shape)", "return h.reshape(x.shape)"),
        ("keys for values", "project(\"k\")(h), project(\"v\")(h)", "project(\"v\")(h), project(\"k\")(h)"),
        ("logits over d", "q.shape[-1] ** -0.5", "q.shape[-1] ** -1.0"),
        ("softmax over queries", "jnp.promote_types(q.dtype, jnp.float32)))", "jnp.promote_types(q.dtype, jnp.float32)), axis=-2)"),
        ("softmax in half precision", "logits.astype(jnp.promote_types(q.dtype, jnp.float32))", "logits"),
        ("moments in half precision", "x = x.astype(jnp.promote_types(x.dtype, jnp.float32))", "x = x"),
        ("barriers without a gradient", "    return x\n\n\n@materialised.defjvp", "    return jax.lax.optimization_barrier(x)\n\n\n@materialised.defjvp"),
    ),
    *_mutants(
        "progdist/nets/unet.py",
        "test_unet_published.py test_nets.py",
        ("angle times 100", "1000.0 * angle", "100.0 * angle"),
        ("angle of the SNR", "jnp.exp(-0.5 * jnp.clip(logsnr", "jnp.exp(-1.0 * jnp.clip(logsnr"),
        ("clipped at 10", "jnp.clip(logsnr, -20.0, 20.0)", "jnp.clip(logsnr, -10.0, 10.0)"),
        ("another last frequency", "/ (half - 1) *", "/ half *"),
        ("cosines first", "jnp.sin(phases), jnp.cos(phases)", "jnp.cos(phases), jnp.sin(phases)"),
        ("no swish in the embedding", "dense(\"dense1\")(nn.swish(emb))", "dense(\"dense1\")(emb)"),
        ("class left out", "emb += dense(\"class_emb\")(jax.nn.one_hot(label, self.num_classes))", "dense(\"class_emb\")(jax.nn.one_hot(label, self.num_classes))"),
        ("skip first", "jnp.concatenate([h, skips.pop()], axis=-1)", "jnp.concatenate([skips.pop(), h], axis=-1)"),
        ("no swish at the end", "h = nn.swish(GroupNorm(self.dtype, name=\"norm_out\")(h))", "h = GroupNorm(self.dtype, name=\"norm_out\")(h)"),
        ("last convolution not zero", "zero=True, dtype=self.dtype, name=\"conv_out\"", "dtype=self.dtype, name=\"conv_out\""),
        ("head_dim ignored", "block(self.num_heads, self.head_dim,", "block(self.num_heads, None,"),
        ("num_heads ignored", "block(self.num_heads, self.head_dim,", "block(1, self.head_dim,"),
        ("no attention on the way up", "h = self._attend(h, f\"up_{level}.attn_{i}\")", "self._attend(h, f\"up_{level}.attn_{i}\")"),
        ("no attention on the way down", "h = self._attend(h, f\"down_{level}.attn_{i}\")", "self._attend(h, f\"down_{level}.attn_{i}\")"),
        ("no attention in the middle", "h = self._attend(h, \"mid.attn_1\")", "self._attend(h, \"mid.attn_1\")"),
        ("channels of the first level everywhere", "features = self.ch * self.ch_mult[level]", "features = self.ch * self.ch_mult[0]"),
        ("no keys on the way up", "self._up(h, skips, emb, dropout)", "self._up(h, skips, emb, None)"),
        ("output in the computation's dtype", "depth_to_space(h, self.patch_size).astype(z.dtype)", "depth_to_space(h, self.patch_size)"),
    ),
]

TRAINER = [
    *_mutants(
        "progdist/trainer/state.py",
        "test_state.py test_state_machine.py",
        ("Adam's b1", "b1=0.9,", "b1=0.95,"),
        ("Adam's b2", "b2=0.999,", "b2=0.99,"),
        ("Adam's epsilon", "eps=1e-8", "eps=1e-6"),
        ("clipping ten times weaker", "optax.clip_by_global_norm(clip_norm or float(\"inf\"))", "optax.clip_by_global_norm(10 * clip_norm or float(\"inf\"))"),
        ("clipping by element", "optax.clip_by_global_norm(clip_norm", "optax.clip(clip_norm"),
        ("no clipping", "optax.clip_by_global_norm(clip_norm or float(\"inf\"))", "optax.clip_by_global_norm(float(\"inf\"))"),
        ("decay in the gradient", "        optax.scale_by_adam(b1=0.9, b2=0.999, eps=1e-8),\n        optax.add_decayed_weights(weight_decay),", "        optax.add_decayed_weights(weight_decay),\n        optax.scale_by_adam(b1=0.9, b2=0.999, eps=1e-8),"),
        ("no decay", "optax.add_decayed_weights(weight_decay)", "optax.add_decayed_weights(0.0)"),
        ("warm-up lost with annealing", "rate *= 1 - step / num_updates", "rate = jnp.float32(peak) * (1 - step / num_updates)"),
        ("no rate at the first update", "(step + 1) / warmup_updates", "step / warmup_updates"),
        ("annealed to zero an update early", "1 - step / num_updates", "1 - (step + 1) / num_updates"),
        ("warm-up without an end", "jnp.minimum(1.0, (step + 1) / warmup_updates)", "(step + 1) / warmup_updates"),
        ("average of the last parameters alone", "return 1 - decay", "return decay"),
        ("average an update behind", "optax.incremental_update(params, ema_params", "optax.incremental_update(state.params, ema_params"),
        ("raw parameters sample", "return state.params if state.ema_params is None else state.ema_params", "return state.params"),
        ("steps not counted", "TrainState(state.step + 1, params", "TrainState(state.step, params"),
        ("uphill", "lambda p, u: p - rate * u", "lambda p, u: p + rate * u"),
        ("moments not kept", "return TrainState(state.step + 1, params, ema_params, opt_state)", "return TrainState(state.step + 1, params, ema_params, state.opt_state)"),
        ("average shares memory", "jax.tree.map(jnp.copy, params) if keep_ema", "params if keep_ema"),
    ),
    *_mutants(
        "progdist/trainer/recipes.py",
        "test_recipes.py",
        ("no dropout in phase 0", "weight=base.weight, dropout=base.dropout)", "weight=base.weight)"),
        ("the base model's dropout in the rounds", "dropout=distill.dropout", "dropout=base.dropout"),
        ("the base model's weight in the rounds", "weight=distill.weight", "weight=base.weight"),
        ("two teacher steps whatever the ratio", "ratio=distill.ratio", "ratio=2"),
        ("the base model's settings in the rounds", "_make_recipe(distill, student, student, distill_loss, mesh)", "_make_recipe(base, student, student, distill_loss, mesh)"),
        ("one key for all phases", "1 + phase.number", "1"),
        ("one key for all seeds", "jax.random.key(seed)", "jax.random.key(0)"),
        ("steps and updates swapped", "jnp.int32(phase.num_steps), jnp.int32(phase.num_updates)", "jnp.int32(phase.num_updates), jnp.int32(phase.num_steps)"),
        ("clipping and decay swapped", "make_optimizer(settings.clip_norm, settings.weight_decay)", "make_optimizer(settings.weight_decay, settings.clip_norm)"),
        ("warm-up left out", "warmup_updates=settings.warmup_updates", "warmup_updates=0"),
        ("never annealed", "anneal=settings.anneal", "anneal=\"none\""),
        ("no average", "decay=settings.ema_decay, ", "decay=0.0, "),
        ("no warm-up", "warmup=settings.ema_warmup", "warmup=0"),
    ),
    *_mutants(
        "progdist/trainer/run.py",
        "test_run_values.py",
        ("the data begin again in each phase", "phase.first_update + done,\n        phase.end_update,", "done,\n        phase.num_updates,"),
        ("raw parameters kept and measured", "params = sampling_params(snapshot.state)", "params = snapshot.state.params"),
        ("the student measured as the teacher", "phase_end.add(phase, params, pieces.phases[0], base)", "phase_end.add(phase, params, pieces.phases[0], params)"),
        ("never mirrored", "pieces.config.data.flip,", "False,"),
        ("one seed for all runs", "init_params(recipe.model, pieces.config.seed, pieces.mesh)", "init_params(recipe.model, 0, pieces.mesh)"),
        ("one order for all runs", "pieces.source,\n        pieces.config.seed,", "pieces.source,\n        0,"),
        ("the first phase's teacher in all rounds", "recipes.make_round(config.seed, phase, teacher_params, pieces.mesh)", "recipes.make_round(config.seed, pieces.phases[-1], teacher_params, pieces.mesh)"),
    ),
    *_mutants(
        "progdist/trainer/state_machine.py",
        "test_state_machine.py",
        ("the teacher not averaged", "teacher_params = sampling_params(snapshot.state)", "teacher_params = snapshot.state.params"),
        ("the student not averaged", "init_state(teacher_params, optimizer", "init_state(snapshot.state.params, optimizer"),
        ("the teacher never refreshed", "student, teacher_params)", "student, snapshot.teacher_params)"),
        ("a swap too many", "snapshot.phase < phase.number", "snapshot.phase <= phase.number"),
        ("phases from the start", "phases[snapshot.phase :]", "phases"),
    ),
    *_mutants(
        "progdist/plan.py",
        "test_state_machine.py",
        ("a long round too many", "k > rounds - long_rounds", "k >= rounds - long_rounds"),
        ("halved whatever the ratio", "start_steps // ratio**k", "start_steps // 2**k"),
        ("every phase counted from 0", "length = updates, phases[-1].end_update", "length = updates, 0"),
    ),
    *_mutants(
        "progdist/trainer/step.py",
        "test_step.py test_model.py",
        ("u on a fixed grid", "jax.random.uniform(offset_key) + rows / size", "0.5 / size + rows / size", "test_step.py::test_the_grid_of_times_moves_over_the_whole_of_its_step"),
        ("u not spread", "jax.random.uniform(offset_key) + rows / size", "jax.random.uniform(offset_key) + 0 * rows / size", "test_step.py::test_times_cover_the_unit_interval_evenly"),
        ("one key for noise and dropout", "(None, 0))(dropout_key, rows)", "(None, 0))(noise_key, rows)", "test_step.py::test_noise_and_dropout_have_keys_of_their_own"),
        ("one noise for all examples", "(None, 0))(noise_key, rows)", "(None, 0))(noise_key, 0 * rows)", "test_step.py::test_two_updates_see_different_noise"),
        ("one dropout mask for all examples", "(None, 0))(dropout_key, rows)", "(None, 0))(dropout_key, 0 * rows)", "test_step.py::test_noise_and_dropout_have_keys_of_their_own"),
        ("the same draws at each update", "jax.random.fold_in(round_.key, state.step)", "round_.key", "test_step.py::test_each_update_has_random_numbers_of_its_own"),
        ("i from 0", "jnp.floor(draws.u * num_steps).astype(int) + 1", "jnp.floor(draws.u * num_steps).astype(int)"),
        ("i rounded up", "jnp.floor(draws.u * num_steps)", "jnp.round(draws.u * num_steps)"),
        ("a teacher step too few", "conditioning=conditioning)] * ratio", "conditioning=conditioning)] * (ratio - 1)", "test_model.py test_recipes.py"),
        ("i beyond N", "jnp.minimum(jnp.floor(draws.u * num_steps).astype(int) + 1, num_steps)", "jnp.floor(draws.u * num_steps).astype(int) + 1", "", "u is at most 1 - 2^-24, of which u N rounds to less than N"),
        ("the student is its own teacher", "bind(teacher, round_.teacher_params)", "bind(teacher, state.params)", "test_step.py::test_a_round_learns_from_its_own_teacher"),
        ("the teacher without labels", "functools.partial(teacher_denoise, conditioning=conditioning)", "teacher_denoise", "test_model.py"),
        ("the teacher with dropout", "bind(teacher, round_.teacher_params)", "bind(teacher, round_.teacher_params, _dropout(draws, dropout))", "test_model.py"),
        ("no dropout in phase 0", "bind(model, state.params, _dropout(draws, dropout))", "bind(model, state.params)", "test_step.py::test_the_base_model_is_trained_with_its_labels_and_dropout"),
        ("no labels in phase 0", "functools.partial(denoise, conditioning=Conditioning(batch.label))", "denoise", "test_step.py::test_the_base_model_is_trained_with_its_labels_and_dropout"),
        ("no dropout in the rounds", "bind(student, state.params, _dropout(draws, dropout))", "bind(student, state.params)", "test_model.py"),
        ("the student without labels", "functools.partial(student_denoise, conditioning=conditioning)", "student_denoise", "test_model.py"),
        ("loss at the average", "state._replace(params=params)", "state._replace(params=params, ema_params=params)", "", "no loss reads the average yet"),
        ("bins of the wrong time", "Examples(each, schedule(i / num_steps))", "Examples(each, schedule(draws.u))", "test_step.py::test_a_loss_says_at_which_logsnr_it_was_taken"),
        ("norm after the update", "optax.tree.norm(gradient), optax.tree.norm(after.params)", "optax.tree.norm(gradient), optax.tree.norm(state.params)", "test_step.py::test_metrics_report_the_gradient_before_clipping_and_the_rate"),
        ("rate of the update after", "rate(state.step, round_.num_updates)", "rate(state.step + 1, round_.num_updates)", "test_step.py::test_metrics_report_the_gradient_before_clipping_and_the_rate"),
        ("broken updates committed", "_unless_broken(metrics, state, after), metrics", "after, metrics", "test_step.py::test_an_update_that_is_not_finite_is_not_committed"),
        ("an update that is partly broken committed", "jnp.all(jnp.isfinite", "jnp.any(jnp.isfinite", "test_step.py::test_an_update_that_is_not_finite_is_not_committed"),
        ("a skipped update does not count", "kept._replace(step=after.step)", "kept", "test_step.py::test_an_update_that_is_not_finite_is_not_committed"),
    ),
]

WORKDIR = [
    *_mutants(
        "progdist/workdir/array_cache.py",
        "test_array_cache.py test_extraction.py",
        ("damaged arrays taken", "text == _text(key) and digest == digest_of(arrays)", "text == _text(key)"),
        ("arrays of another key taken", "text == _text(key) and digest == digest_of(arrays)", "digest == digest_of(arrays)"),
        ("shapes not in the digest", "{name} {array.dtype} {array.shape} ", "{name} "),
    ),
]

CONFIGS = [
    *_mutants(
        "configs/cifar10.py",
        "test_config.py",
        ("dropout", "dropout=0.2", "dropout=0.1"),
        ("weight decay", "weight_decay=1e-3", "weight_decay=1e-2"),
        ("base learning rate", "learning_rate=2e-4", "learning_rate=3e-4"),
        ("distillation learning rate", "learning_rate=5e-5", "learning_rate=1e-4"),
        ("base batch", "num_updates=800_000,\n            batch_size=128", "num_updates=800_000,\n            batch_size=256"),
        ("distillation batch", "num_updates=50_000,\n            batch_size=128", "num_updates=50_000,\n            batch_size=256"),
        ("average", "ema_decay=0.9999", "ema_decay=0.999"),
        ("warm-up", "warmup_updates=1000", "warmup_updates=5000"),
        ("attention", "attn_resolutions=(8, 16)", "attn_resolutions=(8,)"),
        ("width of the embedding", "emb_ch=1024", "emb_ch=512"),
        ("parameterization", "parameterization=\"x\"", "parameterization=\"v\""),
        ("first steps", "start_steps=8192", "start_steps=1024"),
        ("not mirrored", "flip=True", "flip=False"),
        ("images of the evaluation", "num_samples=50_000", "num_samples=10_000"),
    ),
    *_mutants(
        "configs/imagenet64.py",
        "test_config.py",
        ("dropout", "dropout=0.1", "dropout=0.2"),
        ("base learning rate", "learning_rate=3e-4", "learning_rate=2e-4"),
        ("distillation learning rate", "learning_rate=1e-4", "learning_rate=5e-5"),
        ("base batch", "num_updates=550_000,\n            batch_size=2048", "num_updates=550_000,\n            batch_size=1024"),
        ("distillation batch", "num_updates=50_000,\n            batch_size=2048", "num_updates=50_000,\n            batch_size=1024"),
        ("heads", "head_dim=64", "head_dim=32"),
        ("classes", "num_classes=1000", "num_classes=1001"),
        ("long rounds", "long_rounds=2", "long_rounds=1"),
    ),
    *_mutants(
        "configs/lsun_bedroom.py",
        "test_config.py",
        ("levels", "(1, 2, 4, 6, 8)", "(1, 2, 4, 8)"),
        ("classes", ", num_classes=0", ""),
        ("updates", "num_updates = 400_000", "num_updates = 550_000"),
        ("size", "image_shape=(128, 128, 3)", "image_shape=(256, 256, 3)"),
    ),
    *_mutants(
        "configs/lsun_church.py",
        "test_config.py",
        ("bedrooms", "config.data.tfds_name = \"lsun/church_outdoor\"", "config.data.tfds_name = \"lsun/bedroom\""),
    ),
]

CORE = [
    *_mutants(
        "progdist/nets/networks.py",
        "test_config.py",
        ("head_dim ignored", "fields[\"dtype\"] = jnp.dtype(config.dtype)", "fields[\"dtype\"], fields[\"head_dim\"] = jnp.dtype(config.dtype), 0"),
        ("dtype ignored", "jnp.dtype(config.dtype)", "jnp.dtype(\"float32\")"),
    ),
    *_mutants(
        "progdist/model.py",
        "test_model.py test_config.py",
        ("every output a v", "return from_output(output, z_t, logsnr_t, model.parameterization)", "return from_output(output, z_t, logsnr_t, \"v\")"),
        ("one output of both", "image_shape[-1] * num_outputs(parameterization)", "image_shape[-1]"),
        ("no conditioning", "{\"params\": params}, z_t, logsnr_t, conditioning, dropout", "{\"params\": params}, z_t, logsnr_t, None, dropout"),
        ("no dropout", "{\"params\": params}, z_t, logsnr_t, conditioning, dropout", "{\"params\": params}, z_t, logsnr_t, conditioning, None"),
        ("no classes", "        net.num_classes,", "        0,"),
    ),
    *_mutants(
        "progdist/parallel.py",
        "test_parallel.py test_step.py",
        ("gradients summed", "varying = jax.tree.map(lambda p: jax.lax.pcast(p, AXIS, to=\"varying\"), params)", "varying = params"),
        ("rows of the first device", "first = jax.lax.axis_index(AXIS) * num_local", "first = 0 * jax.lax.axis_index(AXIS)"),
    ),
]

DATA = [
    *_mutants(
        "progdist/data/order.py",
        "test_data.py",
        ("another constant", "0xBF58476D1CE4E5B9", "0xBF58476D1CE4E5B7"),
        ("one order for all epochs", "stream(seed, \"order\", epoch)", "stream(seed, \"order\", 0)"),
        ("one order for all seeds", "words = [seed, _PURPOSES", "words = [0, _PURPOSES"),
        ("flips follow the order", "stream(seed, \"flip\")", "stream(seed, \"order\")"),
        ("flips by example within a batch", "(bits >> np.uint64(63))", "(bits >> np.uint64(62))"),
        ("batches overlap", "start = step * batch_size", "start = step * (batch_size - 1)"),
        ("with replacement", "order = np.argsort(bits, kind=\"stable\").astype(np.int64)", "order = (bits % np.uint64(num_examples)).astype(np.int64)"),
    ),
    *_mutants(
        "progdist/data/batches.py",
        "test_data.py test_data_ahead.py",
        ("a range of 256", "np.divide(image, np.float32(127.5)", "np.divide(image, np.float32(128)"),
        ("truncated", "np.rint((np.asarray(x", "np.trunc((np.asarray(x"),
        ("not clipped", "np.clip(levels, 0, 255).astype", "levels.astype"),
        ("upside down", "image[mirror, :, ::-1]", "image[mirror, ::-1]"),
        ("all mirrored", "image[mirror] = image[mirror, :, ::-1]", "image[:] = image[:, :, ::-1]"),
        ("the first of an example's kind alone", "np.arange(count, dtype=np.int64) * length // count", "np.arange(count, dtype=np.int64)"),
        ("the last of each chunk not read", "min(start + CHUNK, len(source))", "min(start + CHUNK, len(source)) - 1", "test_data_ahead.py test_folder.py"),
        ("every batch the first", "yield batch_at(source, seed, step, batch_size, flip, rows)", "yield batch_at(source, seed, start, batch_size, flip, rows)"),
        ("rows ignored in memory", "yield batch_at(source, seed, step, batch_size, flip, rows)", "yield batch_at(source, seed, step, batch_size, flip)"),
    ),
    *_mutants(
        "progdist/data/images.py",
        "test_data_images.py",
        ("rotated the other way", "    Image.Transpose.ROTATE_270,\n", "    Image.Transpose.ROTATE_90,\n"),
        ("crop at the corner", "(size[0] - crop_width) // 2, (size[1] - crop_height) // 2", "0, 0"),
        ("crop too large", "scale = min(size[0]", "scale = max(size[0]"),
        ("sides not swapped", "full = (full[1], full[0]) if orientation > 4 else full", "full = full"),
        ("checksums ignored", "            image.verify()", "            pass", "test_folder.py test_data_images.py"),
    ),
    *_mutants(
        "progdist/data/headers.py",
        "test_folder.py test_data_images.py",
        ("animations pass", "elif getattr(image, \"is_animated\", False):", "elif False:"),
        ("pages pass", "if image.is_animated:", "if False:"),
        ("any size passes", "if width * height > limit:", "if False:"),
        ("any tile passes", "_check_size((tile[0], tile[1]))", "pass"),
    ),
    *_mutants(
        "progdist/data/colours.py",
        "test_data_images.py",
        ("greys clipped, not shifted", "(np.asarray(image) >> 8)", "np.minimum(np.asarray(image), 255)"),
        ("transparency passes", "if not background:", "if False:"),
        ("key of eight bits of sixteen", "levels << 8 | _low_bytes(file)", "levels << 8"),
        ("key not widened", "* factor", "* 1"),
        ("profile ignored", "colour = transform(colour)", "pass"),
    ),
    *_mutants(
        "progdist/data/idx.py",
        "test_data.py",
        ("little-endian", "f\">{num_dims}I\"", "f\"<{num_dims}I\""),
        ("more than announced passes", "file.read(size + 1)", "file.read(size)"),
        ("any type passes", "header[:4] != bytes((0, 0, 8, num_dims))", "header[3:4] != bytes((num_dims,))"),
    ),
    *_mutants(
        "progdist/data/identity.py",
        "test_identity.py",
        ("arrays of any content", "digest.update(np.ascontiguousarray(part).data)", "pass"),
        ("bytes of any content", "            digest.update(part)\n", "            pass\n"),
        ("a time that can be set", "status.st_ctime_ns, status.st_ino", "0, 0"),
    ),
    *_mutants(
        "progdist/data/folder.py",
        "test_identity.py",
        ("digests left out", "            digests[usable],\n", ""),
        ("labels left out", "            labels.labels[usable],\n", ""),
        ("names of classes left out", "            identity.text(labels.class_names),\n", ""),
    ),
    *_mutants(
        "progdist/data/records.py",
        "test_identity.py",
        ("newer files believed", "and status.st_mtime_ns <= written", ""),
        ("any size believed", "if size not in (None, status.st_size):", "if False:"),
    ),
    *_mutants(
        "progdist/data/tfds.py",
        "test_identity.py",
        ("any examples of a file", "part.skip, part.take", "0, 0"),
        ("any content of a file", "digests.get(name, b\"\").hex()", "\"\""),
    ),
    *_mutants(
        "progdist/data/cache.py",
        "test_data_cache.py test_identity.py",
        ("all good if one is", "arrays[\"stamps\"][rows] == stamps", "np.ones(len(stamps), bool)"),
        ("not sorted", "rows = rows[np.argsort(stamps[rows])]", "rows = rows[::-1]"),
    ),
    *_mutants(
        "progdist/data/pixels.py",
        "test_data_cache.py",
        ("any shape", "\"shape\": source.image_shape", "\"shape\": 0"),
        ("any content", "[source.name, source.fingerprint]", "[source.name]"),
        ("never removed", "if total > MAX_BYTES:", "if False:"),
    ),
    *_mutants(
        "progdist/data/labels.py",
        "test_labels.py",
        ("in the order of characters", "key=natural)", "key=str)"),
        ("chunks are classes", "if rule == \"auto\" and _are_chunks(classes):", "if False:"),
        ("any length of a chunk", "same_length = len(set(map(len, names))) == 1", "same_length = True"),
        ("images without a label", "if unlabelled is not None:", "if False:"),
        ("true is a class", "list(map(type, entry)) == [str, int]", "isinstance(entry[1], int)"),
        ("negative classes", "if 0 <= number < MAX_CLASSES:", "if number < MAX_CLASSES:"),
    ),
    *_mutants(
        "progdist/data/splits.py",
        "test_labels.py",
        ("others beside splits ignored", "            raise DataError(\n                f\"{where}: {printable(name)} lies", "            print(\n                f\"{where}: {printable(name)} lies"),
        ("the first of two directories", "if len(chosen) > 1:", "if False:"),
        ("case counts", "if name.lower() in names:", "if name in names:"),
        ("unwrapped always", "if labels.FILE in inner.entries() or _splits_among(inner.entries()):", "if True:"),
    ),
    *_mutants(
        "progdist/data/archive.py",
        "test_labels.py",
        ("encrypted members read", "if member.flag_bits & _ENCRYPTED:", "if False:"),
        ("members of any size", "        check_size(member.file_size)\n", ""),
        ("the last of a name", "if name in members and not member.is_dir():", "if False:"),
        ("names with dots", "if part not in (b\"\", b\".\")", "if part"),
    ),
]

EVALUATE = [
    *_mutants(
        "progdist/evaluate/metrics/moments.py",
        "test_metrics.py",
        ("half of the cross term", "trace - 2.0 * cross", "trace - cross"),
        ("distance of means not squared", "(a.mean - b.mean) ** 2", "np.abs(a.mean - b.mean)"),
        ("biased covariance", "squares / (self.count - 1)", "squares / self.count"),
        ("no squares between parts", "squares + squares_b + between", "squares + squares_b"),
        ("mean of parts not weighted", "delta * (other.count / count)", "delta / 2"),
        ("not about the mean", "self._squares - self.count * np.outer(mean, mean)", "self._squares"),
        ("not shifted", "shift = x.mean(0) if self._shift is None else self._shift", "shift = 0 * x[0]"),
        ("small directions cut off", "np.finfo(np.float64).eps", "np.finfo(np.float32).eps"),
    ),
    *_mutants(
        "progdist/evaluate/metrics/kernel.py",
        "test_metrics.py",
        ("biased", "size * (size - 1)", "size * size"),
        ("a quadratic kernel", "kernel = (x[rows] @ y.T / x.shape[1] + 1) ** 3", "kernel = (x[rows] @ y.T / x.shape[1] + 1) ** 2"),
        ("kernel without 1 / d", "x[rows] @ y.T / x.shape[1] + 1", "x[rows] @ y.T + 1"),
        ("half of the cross term", "2 * across", "across"),
        ("another seed", "= 100, 1000, 2020", "= 100, 1000, 2021"),
        ("other subsets", "= 100, 1000, 2020", "= 50, 1000, 2020"),
        ("with replacement", "in_x[rng.choice(len(x), size, replace=False), k]", "in_x[rng.choice(len(x), size), k]"),
    ),
    *_mutants(
        "progdist/evaluate/metrics/neighbours.py",
        "test_metrics.py",
        ("one neighbour less", "np.partition(d, k, axis=1)[:, k]", "np.partition(d, k, axis=1)[:, k - 1]"),
        ("precision for recall", "float(np.concatenate(precise).mean()), float(recalled.mean())", "float(recalled.mean()), float(np.concatenate(precise).mean())"),
        ("balls of the other set", "(d <= of_real)", "(d <= of_real.max())"),
        ("five neighbours", "NEIGHBOURS = 3", "NEIGHBOURS = 5"),
    ),
    *_mutants(
        "progdist/evaluate/metrics/scores.py",
        "test_metrics.py",
        ("five splits", "= 10, 2020", "= 5, 2020"),
        ("not shuffled", "np.random.RandomState(seed).permutation(num)", "np.arange(num)"),
        ("no entropy of the mean", "np.exp(negentropy - scipy.special.xlogy(q, q).sum(1))", "np.exp(negentropy)"),
        ("the variance", "float(scores.std())", "float(scores.var())"),
    ),
    *_mutants(
        "progdist/evaluate/features/pixels.py",
        "test_metrics.py",
        ("a range of 256", "/ 127.5 - 1.0", "/ 128 - 1.0"),
        ("named by the square", "max(image_shape[:2]) // square", "square"),
    ),
    *_mutants(
        "progdist/evaluate/metrics/collector.py",
        "test_metrics.py",
        ("kept by arrival", "self._vectors[indices[early]] = features[early]", "self._vectors[: early.sum()] = features[early]"),
        ("images lost unnoticed", "if count != num:", "if False:"),
    ),
    *_mutants(
        "progdist/evaluate/metrics/spec.py",
        "test_metrics.py",
        ("scores for nothing", "any(spec.needs.scores for spec in specs)", "True"),
        ("vectors of none", "max((spec.needs.num_vectors for spec in specs), default=0)", "0"),
    ),
    *_mutants(
        "progdist/evaluate/extraction.py",
        "test_metrics.py",
        ("FID of any features", "(self.frechet if title == \"FD\" else title)", "(\"FID\" if title == \"FD\" else title)"),
    ),
    *_mutants(
        "progdist/evaluate/references.py",
        "test_extraction.py",
        ("halves overlap", "data.spread_indices(length, 2 * num)[which == \"other half\" :: 2]", "data.spread_indices(length, num)"),
        ("a half is all", "which == \"other half\" :: 2", ":"),
        ("examples in their order", "np.random.default_rng(0).permutation(indices)", "indices"),
        ("floor not scaled", "value=share * v", "value=v"),
        ("floor of the samples alone", "(1 / num + 1 / reference.num_examples) / (2 / count)", "(1 / num) / (2 / count)"),
        ("weights not in the key", "        \"weights\": extractor.digest,\n", ""),
        ("split not in the key", "        \"split\": reference.split,\n", ""),
        ("content not in the key", "        \"content\": reference.content,\n", ""),
        ("too few images have a floor", "if count < metric.minimum:", "if count < 2:", "test_extraction.py test_evaluate.py"),
    ),
    *_mutants(
        "progdist/evaluate/extraction.py",
        "test_extraction.py",
        ("padding counted", "[: len(images)], logits[: len(images)]", ", logits"),
        ("padded at the front", "np.concatenate([images, blank])", "np.concatenate([blank, images])"),
        ("every piece the first", "_padded(images[first:][:size], size)", "_padded(images[:size], size)"),
    ),
    *_mutants(
        "progdist/evaluate/evaluator.py",
        "test_evaluator.py",
        ("seed ignored", "            settings.seed,\n            settings.num_samples,", "            0,\n            settings.num_samples,"),
        ("always computed again", "any(row.repeats(blank) for row in rows)", "False"),
        ("never computed again", "any(row.repeats(blank) for row in rows)", "bool(rows)"),
        ("gamma ignored", "spec.gamma or 0.0", "0.0"),
        ("too many images kept", "if first < settings.grid_images:", "if True:"),
    ),
    *_mutants(
        "progdist/evaluate/sampling.py",
        "test_sampling.py",
        ("all labels 0", "Conditioning(indices % num_classes if", "Conditioning(0 * indices if"),
        ("one key for the start and the steps", "keys = _image_keys(key, indices, 1)", "keys = _image_keys(key, indices, 0)", "", "a step folds its number into the key, so that no draw repeats that of the start"),
        ("gamma ignored", "keys=keys, gamma=gamma", "keys=keys, gamma=0.0"),
        ("the last batch too long", "[: num_images - first]", ""),
        ("every batch the first", "np.arange(first, first + batch_size, dtype=np.int32)", "np.arange(batch_size, dtype=np.int32)"),
        ("one seed", "jax.random.key(seed), jnp.int32", "jax.random.key(0), jnp.int32"),
    ),
]

CHECKPOINT = [
    *_mutants(
        "progdist/checkpoint/digests.py",
        "test_checkpoint.py",
        ("values not in the fingerprint", "(name.removeprefix(under + \"/\"), *leaf)", "(name.removeprefix(under + \"/\"), *leaf[:2])"),
        ("names not in the fingerprint", "(name.removeprefix(under + \"/\"), *leaf)", "leaf"),
        ("a group with its neighbours", "name.startswith(under + \"/\")", "name.startswith(under[:5])"),
        ("what is added passes", "sorted(one.keys() | other.keys())", "sorted(one.keys())"),
        ("the manifest is not sealed", "if seal_line != (_SEAL + hashlib.sha256(body).hexdigest()).encode():", "if False:"),
        ("restored arrays not compared", "name = first_difference(saved, digests_of(tree))", "name = None"),
        ("files not compared", "name = first_difference(saved, present)", "name = None"),
        ("dtypes not compared", "f\"{leaf.dtype}{list(leaf.shape)}\"", "f\"{list(leaf.shape)}\""),
        ("damage called a loss", "return \"damaged\" if name in saved else \"does not belong there\"", "return \"lost\""),
        ("a changed file not read again", "status.st_ino, status.st_size, status.st_mtime_ns", "0, status.st_size, 0"),
    ),
    *_mutants(
        "progdist/checkpoint/trees.py",
        "test_checkpoint.py",
        ("the card is not sealed", "if sealed != digests.seal(card):", "if False:"),
        ("shapes not compared", "    digests.check_shapes(where, saved, abstract)\n", ""),
        ("restored arrays not compared", "    digests.check_digests(where, tree, saved)\n", ""),
        ("everything is called damage", "whole = digests.has_manifest(where)", "whole = False"),
    ),
    *_mutants(
        "progdist/checkpoint/snapshots.py",
        "test_checkpoint.py",
        ("the oldest first", "reverse=True", "reverse=False"),
        ("one snapshot too few", "LatestN(self._keep)", "LatestN(self._keep - 1)"),
        ("a newer step is no error", "latest.step > global_step:", "latest.step > 10 * global_step:"),
        ("a snapshot under another number", "if card.get(\"global_step\") != global_step:", "if False:"),
        ("files not looked at", "        digests.check_manifest(where)\n        card = trees.read_card(where)\n        if", "        card = trees.read_card(where)\n        if", "", "the arrays' digests, which are compared next, find what the files' do in all that is read"),
        ("a damaged one stays", "self._put_aside(global_step, reason)", "pass"),
        ("all damaged is a fresh start", "if restored is None and damaged:", "if False:"),
        ("no manifest", "digests.write_manifest(self._directory / str(global_step))", "pass"),
        ("any number is a step", "and str(int(name)) == name", ""),
    ),
    *_mutants(
        "progdist/checkpoint/models.py",
        "test_checkpoint.py",
        ("an old model stays", "return same and digests.has_manifest(path)", "return True"),
        ("a model without its manifest stays", "return same and digests.has_manifest(path)", "return same"),
        ("damage passes", "    digests.check_manifest(path)\n    card", "    card"),
        ("leftovers stay", "shutil.rmtree(path, ignore_errors=True)", "pass"),
    ),
    *_mutants(
        "progdist/checkpoint/files.py",
        "test_checkpoint.py",
        ("raw parameters of a released file", "[\"ema_params\"]", "[\"params\"]"),
        ("axes of one kept", "name: np.squeeze(np.asarray(x))", "name: np.asarray(x)"),
        ("shapes not compared", "    _check_shapes(path, leaves, shapes)\n", ""),
    ),
]

MUTANTS = [*DIFFUSION, *NETS, *TRAINER, *CORE, *WORKDIR, *CONFIGS, *DATA, *EVALUATE, *CHECKPOINT]
