"""Small trainable parts on a frozen backbone.

Each is a settings dataclass with a method `build`. Importing one loads no heavy
package, so that the command line can check arguments first.
"""
