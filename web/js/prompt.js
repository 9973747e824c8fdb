/** {concept} in Composition Prompt reaches the server as it is written: the front end's dynamic prompts take it for a choice of one. */

import { app } from "../../../scripts/app.js"

const CONCEPT = /(?<!\\)\{concept\}/g

app.registerExtension({
    name: "CompositionalInversion.Prompt",
    nodeCreated(node) {
        if (node.comfyClass !== "CompInvPrompt") return
        const text = node.widgets.find(widget => widget.name === "text")
        const choose = text.serializeValue
        if (!choose) return
        text.serializeValue = function (...args) {
            const own = Object.getOwnPropertyDescriptor(text, "value")
            // Over the value and not in it: whoever types at that moment keeps the caret, and nothing counts as a change.
            Object.defineProperty(text, "value", { value: text.value.replace(CONCEPT, "\\{concept\\}"), configurable: true })
            try {
                return choose.apply(this, args)
            } finally {
                if (own) Object.defineProperty(text, "value", own)
                else delete text.value
            }
        }
    }
})
