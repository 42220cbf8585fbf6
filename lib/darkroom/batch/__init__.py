"""Ray Data: a manifest becomes pictures. `generate.run` is the job; everything else here is what it is made of."""
