// Dark or light: as the system says, until the person says otherwise.

const KEY = "anymask/theme";
const system = matchMedia("(prefers-color-scheme: light)");

export function theme(): "dark" | "light" {
  const chosen = localStorage.getItem(KEY);
  if (chosen === "dark" || chosen === "light") return chosen;
  return system.matches ? "light" : "dark";
}

export function toggleTheme(): void {
  localStorage.setItem(KEY, theme() === "dark" ? "light" : "dark");
  applyTheme();
}

export function applyTheme(): void {
  document.documentElement.dataset.theme = theme();
}

system.addEventListener("change", applyTheme);
