"""Settings of a run, as plain typed data."""

import dataclasses
from typing import Literal

from progdist.diffusion.settings import Parameterization, ScheduleName, Weight
from progdist.errors import InputError
from progdist.nets.settings import (
    ImageShape as ImageShape,
    MatmulPrecision,
    NetConfig,
    UNetConfig,
)
from progdist.plan import Phase, make_plan

Name = Literal[
    "digits", "mnist", "fashion_mnist", "cifar10", "folder", "arrays", "tfds", "random"
]
LabelRule = Literal["auto", "folders", "none"]
Times = Literal["stratified", "independent"]
Anneal = Literal["none", "linear"]
Student = Literal["net", "teacher"]
Metric = Literal["fd", "kid", "is", "pr"]
FeatureNetwork = Literal["inception", "inception_tf1", "squeezenet"]
Features = Literal["pixels", FeatureNetwork]
Baseline = Literal["ddim", "ancestral"]


class ConfigError(InputError):
    """A value is not valid; the message names field, value and rule."""


@dataclasses.dataclass
class Data:
    """Images for training, and for comparison with samples.

    Attributes:
      name: source of the images.
      split: "train"; "test" except for digits and arrays; for a folder also
        "validation"; for tfds any split expression.
      dir: directory of the idx or image files, zip archive of image files, .npz or .npy
        file of arrays, archive of CIFAR-10, or directory of the prepared TFDS data;
        or gs://BUCKET/PATH of one of them, copied to the disk.
      tfds_name: TFDS dataset and its config, for name "tfds".
      image_shape: (height, width, channels).
      flip: mirror a random half of the images, left to right.
      background: colour behind transparent pixels of a folder, as a name or #rrggbb;
        "" refuses transparent images.
      min_size: least height and width of a folder's images; 0 for any.
      skip_bad: share of a folder's files that may be bad and left out.
      labels: labels of a folder: "auto" takes those of dataset.json, else directories
        for classes unless they are chunks such as 00000; "folders" always takes the
        directories; "none" takes none.
      num_workers: number of threads that read and decode data too large for memory.
    """

    name: Name = "digits"
    split: str = "train"
    dir: str = ""
    tfds_name: str = ""
    image_shape: ImageShape = (8, 8, 1)
    flip: bool = False
    background: str = ""
    min_size: int = 0
    skip_bad: float = 0.0
    labels: LabelRule = "auto"
    num_workers: int = 8


@dataclasses.dataclass
class Training:
    """Training of one kind of phase, by Adam.

    Attributes:
      num_updates: updates of the phase.
      batch_size: global batch size, over all devices.
      learning_rate: peak learning rate.
      warmup_updates: updates over which it rises linearly from 0.
      anneal: "linear" decays it linearly to 0 over the phase.
      weight_decay: decoupled weight decay; 0 for none.
      adam_b1: decay of Adam's mean of the gradient.
      adam_b2: decay of Adam's mean of the squared gradient.
      adam_eps: added to the root of that mean, in the denominator.
      clip_norm: bound on the global norm of the gradient; 0 for none.
      clip_groups: number of equal groups of the batch; the gradient of each is clipped
        to clip_norm, then they are averaged. A divisor or a multiple of the number of
        devices, on which the result does not depend.
      micro_batch_size: number of images of the global batch in a forward and backward
        pass (gradient accumulation), to save memory; 0 for all. A multiple of the
        number of devices. Changes only rounding.
      times: "stratified" spreads the times of a batch evenly over [0, 1), and those of
        each clip group; "independent" draws each by itself.
      ema_decay: decay of the moving average of the parameters; 0 for none. The average,
        if any, is used for sampling and as the teacher of the next round.
      ema_warmup: w of the average's warm-up: its decay after t updates is at most
        (1 + t) / (w + t), so that it averages over the last t / (w - 1) updates; 0 for
        none.
      dropout: dropout rate in the network.
      weight: weight w(logsnr) of the squared error in x.
    """

    num_updates: int = 1000
    batch_size: int = 128
    learning_rate: float = 2e-4
    warmup_updates: int = 0
    anneal: Anneal = "none"
    weight_decay: float = 0.0
    adam_b1: float = 0.9
    adam_b2: float = 0.999
    adam_eps: float = 1e-8
    clip_norm: float = 1.0
    clip_groups: int = 1
    micro_batch_size: int = 0
    times: Times = "stratified"
    ema_decay: float = 0.0
    ema_warmup: int = 20
    dropout: float = 0.0
    weight: Weight = "truncated_snr"


@dataclasses.dataclass
class Distillation(Training):
    """Distillation rounds: each divides N by `ratio`, from start_steps to end_steps.

    Attributes:
      anneal: "linear" by default, as in the paper.
      start_steps: DDIM steps of the first teacher.
      end_steps: DDIM steps of the last student.
      ratio: teacher steps that one student step replaces.
      long_rounds: number of final rounds that take `long_num_updates` updates.
      long_num_updates: updates of each of those rounds.
    """

    anneal: Anneal = "linear"
    start_steps: int = 1024
    end_steps: int = 1
    ratio: int = 2
    long_rounds: int = 0
    long_num_updates: int = 0


@dataclasses.dataclass
class Precision:
    """Precision of the network's products: matrix products and convolutions.

    "default" rounds their operands to TF32 on recent NVIDIA GPUs and to bfloat16 on
    TPUs, and "high" to TF32 and to pairs of bfloat16; "highest" is float32.
    "tensorfloat32" and "bfloat16_3x" are "high" on GPUs and on TPUs alone. A CPU
    computes in float32 whatever the precision.

    At N = 8192, and for output v from about N = 1024 on, products of bfloat16 change
    the gradient of distillation as much as the choice of the batch does; "high" removes
    that error on TPUs. On GPUs "high" is TF32, whose error at N = 8192 is a tenth of
    that noise for output x, but as large as it for v, which needs "highest" there. Set
    training and target alike, since the loss compares the two. Sampling needs no more
    than the default. The numbers are in progdist/nets/README.md.

    Attributes:
      training: precision of the base model and of students, forward and backward.
      target: precision of the frozen teacher in distillation.
      sampling: precision of evaluation, and of the models whenever they draw images.
    """

    training: MatmulPrecision = "default"
    target: MatmulPrecision = "default"
    sampling: MatmulPrecision = "default"


@dataclasses.dataclass
class Evaluation:
    """Evaluation after each phase.

    Attributes:
      enabled: whether to sample the models and to evaluate them.
      metrics: names of the metrics.
      features: names of the features that they compare.
      inception_weights: file of the Inception weights; if empty, they are downloaded.
      num_samples: number of images per evaluation.
      reference_images: number of images of the data to compare with, spread over it;
        0 for all.
      batch_size: number of images sampled at a time, over all devices.
      max_steps: largest number of steps that is evaluated: the teacher is sampled in at
        most as many, and students of more are left out; 0 for no bound.
      baselines: samplers of the teacher, in as many steps as each student.
      gamma: noise level of the ancestral sampler, in [0, 1].
      seed: random seed of the samples, separate from the training seed.
      grid_images: number of images in the sample grids.
    """

    enabled: bool = True
    metrics: tuple[Metric, ...] = ("fd",)
    features: tuple[Features, ...] = ("pixels",)
    inception_weights: str = ""
    num_samples: int = 2048
    reference_images: int = 50_000
    batch_size: int = 256
    max_steps: int = 0
    baselines: tuple[Baseline, ...] = ("ddim", "ancestral")
    gamma: float = 0.3
    seed: int = 0
    grid_images: int = 16

    def covers(self, num_steps: int) -> bool:
        """Whether a model of N steps is evaluated in them."""
        return self.enabled and num_steps <= (self.max_steps or num_steps)


@dataclasses.dataclass
class Config:
    """Configuration of a whole run: the base model, then the rounds.

    Attributes:
      seed: random seed of initialisation, data order and noise.
      schedule: noise schedule of every phase.
      parameterization: meaning of the network's output.
      teacher: trained teacher: a directory of `models/`, an exported .safetensors file,
        any source of `progdist convert`, or a function as "package.module:function";
        if empty, phase 0 trains one.
      student: network and schedule of the students: "net" for the configured ones,
        "teacher" for those of the given teacher.
      reparameterize: train phase 0 towards the x̂ of the given teacher; set by
        `progdist train` where the teacher's network or output is not the configured
        one.
      data: the images.
      net: settings of the network; see `progdist.nets.settings`.
      base: training of the base model, in phase 0.
      distill: training of the rounds.
      evaluation: evaluation after each phase.
      precision: precision of the network's products.
      log_every: updates between rows of metrics.jsonl.
      save_every: updates between checkpoints; a multiple of log_every.
      keep_checkpoints: number of latest checkpoints to keep.
      max_skipped: number of consecutive non-finite updates to skip before stopping.
      stuck_seconds: time without progress after which a process prints its stacks and
        exits; 0 for never. Must be longer than any compilation.
      cpu_devices: number of devices that a CPU is split into; 0 for one per core, if
        the batches allow.
    """

    seed: int = 0
    schedule: ScheduleName = "cosine"
    parameterization: Parameterization = "v"
    teacher: str = ""
    student: Student = "net"
    reparameterize: bool = False
    data: Data = dataclasses.field(default_factory=Data)
    net: NetConfig = dataclasses.field(default_factory=UNetConfig)
    base: Training = dataclasses.field(default_factory=Training)
    distill: Distillation = dataclasses.field(default_factory=Distillation)
    evaluation: Evaluation = dataclasses.field(default_factory=Evaluation)
    precision: Precision = dataclasses.field(default_factory=Precision)
    log_every: int = 100
    save_every: int = 1000
    keep_checkpoints: int = 2
    max_skipped: int = 0
    stuck_seconds: int = 1800
    cpu_devices: int = 0


def plan_of(config: Config) -> tuple[Phase, ...]:
    """Returns the configured phases; a teacher taken as it is leaves phase 0 empty.

    Raises:
      ValueError: if start_steps is not end_steps times a power of the ratio.
    """
    distill = config.distill
    trains = config.reparameterize or not config.teacher
    return make_plan(
        base_updates=config.base.num_updates if trains else 0,
        base_batch_size=config.base.batch_size,
        round_updates=distill.num_updates,
        round_batch_size=distill.batch_size,
        start_steps=distill.start_steps,
        end_steps=distill.end_steps,
        ratio=distill.ratio,
        long_rounds=distill.long_rounds,
        long_updates=distill.long_num_updates,
        reparameterize=config.reparameterize,
    )
