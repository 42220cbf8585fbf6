"""The web page of `darkroom studio`. Nobody imports this room but its job; Streamlit is imported when it starts."""
