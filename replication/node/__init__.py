"""The node of an organisation: what joins the core, which decides and does nothing, to a real store. The one
room of the package that knows more of the store than its ground."""
