"""Fine-tuning: one pre-trained encoder, fitted to tasks by as few parameters as they need.

In reading order: `config` (which method, how long), `examples` (users at origins with what came),
`methods` (what of the model may learn), `heads` (what is asked of it), `training` (the loop),
`tuned` (the result: predictions, one small artefact per task, merging).
"""
