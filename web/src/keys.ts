// Every command of the page with its keys: what the keyboard obeys and what the help sheet shows.

export type Command =
  | "accept" | "discard" | "candidate" | "candidateBack" | "label"
  | "add" | "remove" | "brush" | "eraser" | "lasso" | "outline" | "hand" | "smaller" | "larger"
  | "undo" | "redo"
  | "fit" | "zoomIn" | "zoomOut"
  | "up" | "down" | "edit" | "delete" | "hide" | "hideAll"
  | "next" | "previous" | "goodEnough" | "all"
  | "theme" | "help";

interface Binding {
  readonly command: Command;
  /** As `KeyboardEvent.key`, lower case, with "ctrl+" (or the command key) and "shift+" before it where they matter. */
  readonly keys: readonly string[];
  /** For the help sheet; a binding without is another way to say one that has it. */
  readonly shown?: string;
  readonly what?: string;
}

export const GROUPS: readonly { readonly title: string; readonly bindings: readonly Binding[]; readonly hands?: readonly [string, string][] }[] = [
  {
    title: "Make a mask",
    hands: [
      ["Click", "Add what is there"],
      ["Right click, Alt-click", "Take it away"],
      ["Drag", "Draw a box around it"],
    ],
    bindings: [
      { command: "candidate", keys: ["tab"], shown: "Tab", what: "Whole, part or subpart" },
      { command: "candidateBack", keys: ["shift+tab"] },
      { command: "label", keys: ["l"], shown: "L", what: "Label" },
      { command: "accept", keys: ["enter"], shown: "Enter", what: "Accept" },
      { command: "discard", keys: ["escape"], shown: "Esc", what: "Discard" },
      { command: "undo", keys: ["ctrl+z", "z"], shown: "Z", what: "Undo" },
      { command: "redo", keys: ["ctrl+shift+z", "ctrl+y", "shift+z", "y"], shown: "Shift Z", what: "Redo" },
    ],
  },
  {
    title: "Images",
    bindings: [
      { command: "goodEnough", keys: ["g"], shown: "G", what: "Good enough, next image" },
      { command: "next", keys: ["arrowright", "n"], shown: "→", what: "Next image" },
      { command: "previous", keys: ["arrowleft", "p"], shown: "←", what: "Previous image" },
      { command: "all", keys: ["o"], shown: "O", what: "All images" },
    ],
  },
  {
    title: "Tools",
    bindings: [
      { command: "add", keys: ["a", "v"], shown: "A", what: "Add, or drag a box" },
      { command: "remove", keys: ["s"], shown: "S", what: "Take away" },
      { command: "brush", keys: ["b"], shown: "B", what: "Brush" },
      { command: "eraser", keys: ["x"], shown: "X", what: "Eraser" },
      { command: "smaller", keys: ["["], shown: "[", what: "Smaller brush" },
      { command: "larger", keys: ["]"], shown: "]", what: "Larger brush" },
      { command: "lasso", keys: ["q"], shown: "Q", what: "Lasso, with Alt to take away" },
      { command: "outline", keys: ["w"], shown: "W", what: "Corners, with Alt to take away" },
    ],
  },
  {
    title: "Look around",
    hands: [
      ["Wheel", "Zoom"],
      ["Space, middle button", "Move the picture"],
    ],
    bindings: [
      { command: "hand", keys: ["h"], shown: "H", what: "Hand" },
      { command: "fit", keys: ["f", "0"], shown: "F", what: "Whole picture" },
      { command: "zoomIn", keys: ["+", "="], shown: "+", what: "Closer" },
      { command: "zoomOut", keys: ["-"], shown: "−", what: "Farther" },
    ],
  },
  {
    title: "Masks",
    hands: [["Ctrl-click", "Select the mask there"]],
    bindings: [
      { command: "up", keys: ["arrowup"], shown: "↑", what: "Select the one above" },
      { command: "down", keys: ["arrowdown"], shown: "↓", what: "Select the one below" },
      { command: "edit", keys: ["e"], shown: "E", what: "Take it up again" },
      { command: "hide", keys: ["m"], shown: "M", what: "Hide or show it" },
      { command: "hideAll", keys: ["shift+m"], shown: "Shift M", what: "Hide or show all" },
      { command: "delete", keys: ["delete", "backspace"], shown: "Del", what: "Delete it" },
    ],
  },
  {
    title: "With fingers",
    hands: [
      ["Tap", "Add, or use the tool"],
      ["Drag", "Draw a box, or paint"],
      ["Two fingers", "Zoom and move"],
    ],
    bindings: [],
  },
  {
    title: "The page",
    bindings: [
      { command: "theme", keys: ["t"], shown: "T", what: "Dark or light" },
      { command: "help", keys: ["?", "shift+?"], shown: "?", what: "This sheet" },
    ],
  },
];

const commands = new Map(GROUPS.flatMap(({ bindings }) => bindings.flatMap(({ command, keys }) => keys.map((key) => [key, command]))));

/** The command of a key press, if any. */
export function commandOf(event: KeyboardEvent): Command | null {
  const key = event.key.toLowerCase();
  const ctrl = event.ctrlKey || event.metaKey ? "ctrl+" : "";
  // Shift is part of what gives "?" or "+" on many keyboards.
  const shift = event.shiftKey ? "shift+" : "";
  if (event.altKey) return null;
  return commands.get(ctrl + shift + key) ?? (key.length === 1 && !/[a-z]/.test(key) ? (commands.get(ctrl + key) ?? null) : null);
}
