// Blocks of code and tables that scroll can be reached with the keyboard.
for (const region of document.querySelectorAll(".highlight pre, .table-wrapper")) {
  if (region.scrollWidth > region.clientWidth) region.tabIndex = 0;
}
