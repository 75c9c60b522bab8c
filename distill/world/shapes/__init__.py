"""The world of moving shapes: scenes, captions, renderer, judge, quality and reward.

It is the quick test of the training recipe. The recipe's other parts use this world alone where
they import it: `data.clips`, `train.autoencoder`, `train.reader`, `train.scorer`, `train.teacher`,
`recipe`, `stages.watch` and `score`.
"""
