"""The stages of a run, in order: each reads what the ones before it left in the run's folder.

    autoencoder   RUN/autoencoder.pt      the VAE
    clips         RUN/clips.safetensors   the world's clips, encoded
    teacher       RUN/teacher/            text encoder and U-Net of VideoCrafter2's shape
    prune         RUN/pruned/             the teacher's U-Net with fewer blocks
    matching      RUN/matched/            stage 1: the pruned U-Net learns from the guided teacher
    scorer        RUN/scorer.pt           a contrastive reward
    consistency   RUN/distilled/          stage 2: few steps, visual feedback
    decoder       RUN/student/            the VAE's decoder, on latents that a network made

`RUN/teacher/`, `RUN/pruned/` and the rest are model folders (`train.model.Model`). `Sources` names
published checkpoints, or clips of your own, to use instead.
"""
