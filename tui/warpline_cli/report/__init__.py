"""The page of `warpline report`: what was asked, what that said, plots of it, and the page that shows them."""
