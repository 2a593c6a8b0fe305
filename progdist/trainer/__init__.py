"""The state machine of a run: train a phase, evaluate it, swap teacher and student.

restore -> (train -> keep, evaluate -> swap: teacher <- student, N <- N / ratio)*

Phases (`state_machine`, planned by `progdist.plan`):

| kind    | teacher                        | student starts from | ends after  |
|---------|--------------------------------|---------------------|-------------|
| base    | none; data, or a given teacher | random, or given    | its updates |
| distill | model of the phase before      | the teacher         | its updates |

Start of a run (`start.restore`):

| newest checkpoint    | teacher given | begins with                 |
|----------------------|---------------|-----------------------------|
| none                 | no            | fresh parameters, phase 0   |
| none                 | yes           | the teacher's, phase 0      |
| phase p, step s      | either        | that one, at p and s        |
| damaged              | either        | the one before              |
| all damaged, or lost | either        | an error                    |

`run` assembles the pieces from the configuration (`build`, `recipes`). `start` checks
them and the files of an earlier start (`resume`), and restores. In a `phase`, `loop`
runs the updates, each one a `step` on a `state`. `phase_end` evaluates the finished
model, and `preemption` stops the run at a point where nothing is lost. A run begins
with its facts (`summary`), shows its progress (`display`), and ends with its table and
figures (`conclusion`).
"""
