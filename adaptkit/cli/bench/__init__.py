"""`adaptkit bench`: measure the cost of training, augmentation, decoding and serving on this machine."""

from adaptkit.cli.bench import corpus, models, scale, train
from adaptkit.cli.options import new_group

app = new_group("Measure the cost of corpora, training, augmentation, decoding and serving on this machine.")
for module in (train, scale, corpus, models):
    module.register(app)
