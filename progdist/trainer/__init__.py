"""The state machine of a run: train a phase, evaluate it, swap teacher and student.

restore -> (train -> keep, evaluate -> swap: teacher <- student, N <- N / ratio)*

Phases (`state_machine`, planned by `progdist.plan`):

| kind    | teacher                        | student starts from | ends after  |
|---------|--------------------------------|---------------------|-------------|
| base    | none; data, or a given teacher | random, or given    | its updates |
| distill | model of the phase before      | the teacher         | its updates |

Start of a run (`run.restore`):

| newest checkpoint    | teacher given | begins with                 |
|----------------------|---------------|-----------------------------|
| none                 | no            | fresh parameters, phase 0   |
| none                 | yes           | the teacher's, phase 0      |
| phase p, step s      | either        | that one, at p and s        |
| damaged              | either        | the one before              |
| all damaged, or lost | either        | an error                    |

`run` composes it from the configuration (`build`, `recipes`) and checks what an earlier
start left (`resume`); `loop` runs the updates of a phase, each one `step` on a `state`;
`phase_end` keeps and evaluates the finished model; `preemption` stops the run where
nothing is lost.
"""
