// Before the first paint, so that a chosen theme does not flash. A file of its own: the policy forbids inline scripts.
try {
  var theme = localStorage.getItem('fleetmend.theme');
  if (theme === 'light' || theme === 'dark') document.documentElement.dataset.theme = theme;
} catch (error) {
  // Storage may be forbidden; the system's preference then holds.
}
